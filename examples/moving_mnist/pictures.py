"""The forecasts as a filmstrip (PNG) and as an animation (GIF)."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tritonlstm.core import files

SEQUENCES = 3
ZOOM = 4
"""Pixels of the animation for each pixel of a frame."""

TILE, GAP, TITLE, LABELS = 0.76, 0.04, 0.26, 0.9
"""Inches of the filmstrip: the side of a frame, the space between frames, the space for the title of a sequence, and
the width of the row labels."""


def filmstrip(path: Path, input: Tensor, truth: Tensor, forecasts: dict[str, Tensor]) -> None:
    """Write a PNG: for a few sequences, the input, the truth and each forecast, frame by frame.

    All are (T, B, 1, H, W) in [0, 1].
    """
    rows = {"input": input, "truth": truth, **forecasts}
    steps, sequences = len(truth), min(SEQUENCES, truth.shape[1])
    pitch = TILE + GAP
    width, height = LABELS + steps * pitch, sequences * (TITLE + len(rows) * pitch)
    figure = plt.figure(figsize=(width, height))
    for i_sequence in range(sequences):
        top = height - i_sequence * (TITLE + len(rows) * pitch)
        figure.text(LABELS / width, (top - 0.7 * TITLE) / height, f"sequence {i_sequence + 1}", fontsize=9)
        for i_row, (name, movie) in enumerate(rows.items()):
            bottom = top - TITLE - (i_row + 1) * pitch + GAP
            middle = bottom + TILE / 2
            figure.text((LABELS - 0.1) / width, middle / height, name, fontsize=9, ha="right", va="center")
            for t in range(steps):
                axis = figure.add_axes(
                    ((LABELS + t * pitch) / width, bottom / height, TILE / width, TILE / height), xticks=[], yticks=[]
                )
                axis.imshow(movie[t, i_sequence, 0], cmap="gray", vmin=0, vmax=1)
    png = io.BytesIO()
    figure.savefig(png, dpi=80)
    plt.close(figure)
    files.write(path, png.getvalue())


def animation(path: Path, input: Tensor, truth: Tensor, forecasts: dict[str, Tensor]) -> None:
    """Write a GIF: a column for the truth and for each forecast, a row for each of a few sequences.

    The frames of the input come first, in every column.
    """
    columns = [torch.cat([input, movie])[:, :SEQUENCES, 0] for movie in (truth, *forecasts.values())]
    frames = []
    for t in range(len(columns[0])):
        tiles = [torch.cat(list(torch.nn.functional.pad(column[t], (1, 1, 1, 1), value=0.4)), 0) for column in columns]
        pixels = (torch.cat(tiles, 1).clamp(0, 1) * 255).byte().numpy()
        frames.append(Image.fromarray(np.kron(pixels, np.ones((ZOOM, ZOOM), np.uint8))))
    gif = io.BytesIO()
    frames[0].save(gif, "GIF", save_all=True, append_images=frames[1:], duration=200, loop=0)
    files.write(path, gif.getvalue())
