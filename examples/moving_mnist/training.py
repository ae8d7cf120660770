"""Training: all models in parallel, on the same sequences in the same order."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .task import FRAMES_IN, FRAMES_OUT, make_sequences

BATCH = 8
LEARNING_RATE = 4e-3
WARM_UP = 0.1
CLIP = 100.0
"""Upper bound on the norm of the gradient. The loss is summed over the pixels of a frame."""

RAMP = 0.5
"""Fraction of the training over which the forecast grows from one frame to all: the near future is learned first."""


@dataclass
class Candidate:
    """A model with its optimizer and learning-rate schedule; `run` is the model or its compiled form."""

    model: nn.Module
    run: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @classmethod
    def of(cls, model: nn.Module, iterations: int, *, compiled: bool) -> "Candidate":
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
        # At least two iterations of warm-up: with one, OneCycleLR divides by zero.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, total_steps=max(iterations, round(2 / WARM_UP)), pct_start=WARM_UP
        )
        return cls(model, torch.compile(model) if compiled else model, optimizer, schedule)

    def learn(self, input: Tensor, truth: Tensor) -> float:
        """Take one step of the optimizer. Returns the loss before it, in nats per frame."""
        with autocast(input.device):
            logits = self.run(input, len(truth))
        loss = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="sum") / truth[:, :, 0, 0, 0].numel()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.schedule.step()
        return loss.item()

    @torch.no_grad()
    def forecast(self, input: Tensor) -> Tensor:
        """The forecast probabilities (10, B, 1, H, W), on the CPU."""
        with autocast(input.device):
            logits = [self.run(part, FRAMES_OUT) for part in input.split(64, dim=1)]
        return torch.cat(logits, 1).float().sigmoid().cpu()


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 on a GPU, and on a CPU that has instructions for it."""
    fast = device.type == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def horizon(progress: float) -> int:
    """Number of frames to forecast after this fraction of the training."""
    return min(FRAMES_OUT, 1 + int(FRAMES_OUT * progress / RAMP))


def train(
    candidates: dict[str, Candidate],
    digits: Tensor,
    iterations: int,
    seconds: float,
    seed: int,
    device: torch.device,
    interrupted: Callable[[], bool] = lambda: False,
) -> str:
    """Train until the iterations are done, time is up or `interrupted` says so; asked before each iteration.

    Returns a sentence on how it ended.
    """
    generator = torch.Generator().manual_seed(seed)
    start = time.monotonic()
    with tqdm(total=iterations, unit="it", dynamic_ncols=True) as bar:
        for iteration, (input, truth) in enumerate(_batches(digits, iterations, generator)):
            if interrupted():
                return f"interrupted after {iteration} of {iterations} iterations"
            if time.monotonic() - start > seconds:
                return f"time was up after {iteration} of {iterations} iterations"
            input, truth = input.to(device), truth.to(device)
            losses = {name: each.learn(input, truth) for name, each in candidates.items()}
            bar.update()
            frames = bar.n * BATCH * (FRAMES_IN + FRAMES_OUT) / (time.monotonic() - start)
            bar.set_postfix_str(
                f"{frames:.0f} frames/s, loss at {len(truth)} frames: "
                + ", ".join(f"{name} {loss:.1f}" for name, loss in losses.items())
            )
    return f"{iterations} iterations in {time.monotonic() - start:.0f} s"


def _batches(digits: Tensor, iterations: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    for iteration in range(iterations):
        input, truth = make_sequences(digits, BATCH, generator)
        yield input, truth[: horizon(iteration / iterations)]
