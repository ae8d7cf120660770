"""A batch of sequences through a stack of layers, then the same sequences in two parts that carry the state."""

import torch

from tritonlstm import ConvLSTM2d


def main() -> None:
    torch.manual_seed(0)
    layer = ConvLSTM2d(in_channels=1, hidden_channels=[16, 8], kernel_size=[5, 3])
    frames = torch.randn(12, 4, 1, 24, 32)  # (T, B, C, H, W)

    output, state = layer(frames)
    print("output", tuple(output.shape))
    for index, (h, c) in enumerate(state):
        print(f"layer {index}: h {tuple(h.shape)}, c {tuple(c.shape)}")

    first, state = layer(frames[:7])
    second, _ = layer(frames[7:], state)
    print("two parts equal the whole:", torch.equal(torch.cat([first, second]), output))


if __name__ == "__main__":
    main()
