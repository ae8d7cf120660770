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
    figure, axes = plt.subplots(
        len(rows) * SEQUENCES,
        len(truth),
        figsize=(len(truth), len(rows) * SEQUENCES),
        gridspec_kw={"wspace": 0.05, "hspace": 0.05},
    )
    for i_row, row_axes in enumerate(axes):
        name, movie = list(rows.items())[i_row % len(rows)]
        for t, axis in enumerate(row_axes):
            axis.imshow(movie[t, i_row // len(rows), 0], cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
            if i_row % len(rows) == 0 and t == 0:
                axis.set_title(f"sequence {i_row // len(rows) + 1}", fontsize=9, loc="left")
        row_axes[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=80, bbox_inches="tight")
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
