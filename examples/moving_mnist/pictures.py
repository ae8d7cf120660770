"""The forecasts as a filmstrip and as a moving picture."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

ZOOM = 4
SEQUENCES = 3


def filmstrip(path: Path, input: Tensor, truth: Tensor, forecasts: dict[str, Tensor]) -> None:
    """Write a PNG: for a few sequences, the input, the truth and each forecast, frame by frame.

    All are (T, B, 1, H, W) in [0, 1].
    """
    rows = {"input": input, "truth": truth, **forecasts}
    figure = plt.figure(figsize=(0.9 * len(truth), 0.95 * len(rows) * SEQUENCES))
    for i_sequence, part in enumerate(figure.subfigures(SEQUENCES, 1)):
        axes = part.subplots(
            len(rows),
            len(truth),
            gridspec_kw={"wspace": 0.05, "hspace": 0.05, "left": 0.12, "right": 0.99, "top": 0.98, "bottom": 0.04},
        )
        for row_axes, (name, movie) in zip(axes, rows.items(), strict=True):
            for t, axis in enumerate(row_axes):
                axis.imshow(movie[t, i_sequence, 0], cmap="gray", vmin=0, vmax=1)
                axis.set(xticks=[], yticks=[])
            row_axes[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def animation(path: Path, input: Tensor, truth: Tensor, forecasts: dict[str, Tensor]) -> None:
    """Write a GIF: columns truth and forecasts, rows a few sequences; while the input runs, all columns show it."""
    columns = [torch.cat([input, movie])[:, :SEQUENCES, 0] for movie in (truth, *forecasts.values())]
    frames = []
    for t in range(len(columns[0])):
        tiles = [torch.cat(list(torch.nn.functional.pad(column[t], (1, 1, 1, 1), value=0.4)), 0) for column in columns]
        pixels = (torch.cat(tiles, 1).clamp(0, 1) * 255).byte().numpy()
        frames.append(Image.fromarray(np.kron(pixels, np.ones((ZOOM, ZOOM), np.uint8))))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=200, loop=0)
