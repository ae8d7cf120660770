"""Scheduled sampling: the frames that are known in one call, then one step at a time, each of which reads the model's
own forecast or, with a probability that falls during training, the true frame (Bengio et al. 2015, arXiv 1506.03099).
"""

import torch
from torch import Tensor, nn

from tritonlstm import ConvLSTM2d

KNOWN, TOTAL, TRAINING_STEPS = 5, 10, 40


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.recurrent = ConvLSTM2d(in_channels=1, hidden_channels=[8, 8], kernel_size=3)
        self.to_frame = nn.Conv2d(8, 1, 1)

    def forward(self, frames: Tensor, true_share: float) -> Tensor:
        """frames (TOTAL, B, 1, H, W) → the forecasts (TOTAL - KNOWN, B, 1, H, W) of those behind the known ones."""
        output, state = self.recurrent(frames[:KNOWN])  # one call for all that is known
        forecasts = [self.to_frame(output[-1])]
        for truth in frames[KNOWN:-1]:
            is_true = torch.rand(len(truth), 1, 1, 1) < true_share
            frame = torch.where(is_true, truth, forecasts[-1])
            hidden, state = self.recurrent.step(frame, state)
            forecasts.append(self.to_frame(hidden))
        return torch.stack(forecasts)


def main() -> None:
    torch.manual_seed(0)
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    # A bright column that moves one pixel a step.
    frames = torch.zeros(TOTAL, 16, 1, 12, 12)
    for t in range(TOTAL):
        frames[t, range(16), :, :, [(t + start) % 12 for start in range(16)]] = 1

    losses = []
    for iteration in range(TRAINING_STEPS):
        true_share = 1 - iteration / TRAINING_STEPS
        loss = (model(frames, true_share) - frames[KNOWN:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if iteration % 10 == 0:
            print(f"iteration {iteration}: true frames {true_share:.2f}, loss {loss.item():.4f}")

    print("the loss falls to less than half:", losses[-1] < losses[0] / 2)


if __name__ == "__main__":
    main()
