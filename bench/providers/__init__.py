"""What is timed: our layer and its variants, its convolutions alone, and the baselines."""

from dataclasses import replace
from functools import partial

import torch

from . import conv_floor, steps
from .jax_layers import FLAX, KERAS
from .protocol import Provider
from .torch_layers import Stack, build, build_compiled, build_ours, eager, eager_contiguous, fused, why_no_fused_cell


def _ours(name: str, *, peephole: bool = True, **options: object) -> Provider:
    return Provider(name, partial(build_ours, **options), peephole=peephole, slack=1.0)


OURS = _ours("tritonlstm")
OURS_WITHOUT_PEEPHOLE = _ours("tritonlstm, no peephole", peephole=False)
RECOMPUTE = _ours("tritonlstm, recompute", memory="recompute")
HOISTED = _ours("tritonlstm, hoisted", schedule="hoisted")
NCHW = _ours("tritonlstm, NCHW", memory_format=torch.contiguous_format)
VARIANTS = [
    RECOMPUTE,
    NCHW,
    _ours("tritonlstm, concat", schedule="concat"),
    HOISTED,
    _ours("tritonlstm, torch backend", backend="torch"),
]
"""backend="triton" is what "auto" chooses on a GPU. Elsewhere Triton's interpreter runs, whose speed means nothing.

All but NCHW are given images in channels last; from contiguous ones X is transposed where it is copied."""

CONV_FLOOR = Provider("convolutions", partial(conv_floor.build, torch.channels_last), peephole=False)
EAGER = Provider("eager", partial(build, eager))
FUSED_CELL = Provider("eager, fused cell", partial(build, fused), why_no_fused_cell, peephole=False)
FLOORS = [
    CONV_FLOOR,
    Provider("convolutions, contiguous", partial(conv_floor.build, torch.contiguous_format), peephole=False),
]
EAGER_FORMATS = [
    EAGER,
    Provider("eager, contiguous", partial(build, eager_contiguous, memory_format=torch.contiguous_format)),
]
"""One baseline in two memory formats: the better one counts. Likewise the convolutions alone."""

OURS_STEP = Provider("tritonlstm step", steps.build_ours, slack=1.0)
OURS_STEP_WITHOUT_PEEPHOLE = replace(OURS_STEP, name="tritonlstm step, no peephole", peephole=False)
EAGER_STEP_FORMATS = [
    Provider("eager step", steps.build_eager),
    Provider("eager step, contiguous", partial(steps.build_eager, memory_format=torch.contiguous_format)),
]
EAGER_CELL_FORMATS = [
    Provider("eager cells", steps.build_eager_cells),
    Provider("eager cells, contiguous", partial(steps.build_eager_cells, memory_format=torch.contiguous_format)),
]
LSTM_CELL = Provider("nn.LSTMCell", steps.build_lstm_cell, peephole=False)
STEP_PROVIDERS = [OURS_STEP, *EAGER_CELL_FORMATS, *EAGER_STEP_FORMATS, OURS_STEP_WITHOUT_PEEPHOLE, LSTM_CELL]
"""One step at a time. They are compared with each other alone; nn.LSTMCell is one layer of vectors. Eager comes as
modules, which is what a project has, and as functions of their parameters, without the overhead of modules."""


def _compiled(name: str, stack: Stack, mode: str | None, eager: Provider) -> Provider:
    return replace(eager, name=name, build=partial(build_compiled, stack, mode), compiles=True)


_TUNED = "max-autotune-no-cudagraphs"
COMPILED = _compiled("torch.compile", eager, None, EAGER)
COMPILED_FUSED_CELL = _compiled("torch.compile, fused cell", fused, None, FUSED_CELL)
MAX_AUTOTUNE = _compiled("torch.compile max-autotune", eager, _TUNED, EAGER)
MAX_AUTOTUNE_FUSED_CELL = _compiled("torch.compile max-autotune, fused cell", fused, _TUNED, FUSED_CELL)
OURS_COMPILED = replace(OURS, name="tritonlstm, torch.compile", build=partial(build_ours, compiled=True), compiles=True)
COMPILERS = [OURS_COMPILED, COMPILED, COMPILED_FUSED_CELL, MAX_AUTOTUNE, MAX_AUTOTUNE_FUSED_CELL]
ALL = [OURS, *FLOORS, *EAGER_FORMATS, OURS_WITHOUT_PEEPHOLE, FUSED_CELL, *VARIANTS, *COMPILERS, FLAX, KERAS]
