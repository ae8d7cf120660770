"""One image as the input of many steps, with a loss on some of the outputs. The expanded input is not copied."""

import torch

from tritonlstm import ConvLSTM2d


def main() -> None:
    torch.manual_seed(0)
    layer = ConvLSTM2d(in_channels=3, hidden_channels=8, kernel_size=3)
    image = torch.randn(2, 3, 16, 16, requires_grad=True)

    seen = image.expand(10, -1, -1, -1, -1)  # (T, B, C, H, W); the steps share their memory
    output, _ = layer(seen)
    kept = output[[3, 6, 9]]
    kept.square().mean().backward()

    print("memory for the input:", seen.untyped_storage().nbytes() // image.untyped_storage().nbytes(), "image")
    print("kept", tuple(kept.shape))
    print("gradient of the image", tuple(image.grad.shape), "is there:", bool(image.grad.abs().sum() > 0))


if __name__ == "__main__":
    main()
