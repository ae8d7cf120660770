"""Streaming: one frame at a time, with the state passed from call to call. The activation is relu instead of tanh."""

import torch

from tritonlstm import ConvLSTM2d


@torch.inference_mode()
def main() -> None:
    torch.manual_seed(0)
    layer = ConvLSTM2d(in_channels=1, hidden_channels=[8, 8], kernel_size=3, activation="relu")
    frames = torch.rand(6, 1, 1, 20, 20)

    state, outputs = None, []
    for t, frame in enumerate(frames):  # (B, C, H, W)
        output, state = layer.step(frame, state)
        outputs.append(output)
        print(f"frame {t}: mean output {output.mean():.4f}")

    sequence, _ = layer(frames)
    print("steps agree with the sequence:", torch.allclose(torch.stack(outputs), sequence, atol=1e-6))


if __name__ == "__main__":
    main()
