"""Scores of a forecast: MSE, cross-entropy and SSIM."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from skimage.metrics import structural_similarity
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """The scores of one model.

    mse: squared error, summed over the pixels of a frame, averaged over frames and sequences; last_mse: the same for
    the last frame; cross_entropy: in nats, summed over pixels and frames, averaged over sequences, as in Shi et al.
    2015; ssim: mean structural similarity of the frames.
    """

    mse: float
    last_mse: float
    cross_entropy: float
    ssim: float


def score(forecast: Tensor, truth: Tensor) -> Scores:
    """forecast and truth (T, B, 1, H, W) in [0, 1]."""
    error = (forecast - truth).square().sum((2, 3, 4)).mean(1)
    entropy = F.binary_cross_entropy(forecast, truth, reduction="none").sum((0, 2, 3, 4)).mean()
    pairs = zip(forecast.flatten(0, 2).numpy(), truth.flatten(0, 2).numpy(), strict=True)
    ssim = [structural_similarity(one, other, data_range=1.0) for one, other in pairs]
    return Scores(
        mse=error.mean().item(),
        last_mse=error[-1].item(),
        cross_entropy=entropy.item(),
        ssim=float(torch.tensor(ssim).mean()),
    )


def score_last_frame(input: Tensor, truth: Tensor) -> Scores:
    """The trivial forecast, which repeats the last input frame.

    Its pixels are black or white, so a wrong one has an unbounded cross-entropy. For that score they are clipped to
    [ε, 1 - ε], with the ε that gives the best score.
    """
    forecast = input[-1:].expand_as(truth)
    plain = score(forecast, truth)
    clipped = [forecast.clamp(epsilon, 1 - epsilon) for epsilon in (0.01, 0.02, 0.05, 0.1, 0.15, 0.2)]
    entropy = [
        F.binary_cross_entropy(each, truth, reduction="none").sum((0, 2, 3, 4)).mean().item() for each in clipped
    ]
    return Scores(plain.mse, plain.last_mse, min(entropy), plain.ssim)


def table(scores: dict[str, Scores], parameters: dict[str, int]) -> str:
    """The scores as lines of text."""
    lines = [f"{'':12} {'parameters':>11} {'MSE/frame':>10} {'last frame':>11} {'cross-entropy':>14} {'SSIM':>6}"]
    for name, each in scores.items():
        count = f"{parameters[name]:,}" if name in parameters else "–"
        lines.append(
            f"{name:12} {count:>11} {each.mse:10.2f} {each.last_mse:11.2f} {each.cross_entropy:14.1f} {each.ssim:6.3f}"
        )
    return "\n".join(lines)
