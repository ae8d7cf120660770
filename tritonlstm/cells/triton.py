"""The gates and their gradients in Triton: what each kernel is launched with.

Here is allocated what a kernel needs, its configuration picked and its grid laid out; `launch.launcher` launches it.
The same code runs on CPU tensors when Triton interprets (TRITON_INTERPRET=1).
"""

import math

import torch
import triton
from torch import Tensor

from ..core.devices import architecture
from ..core.layout import Layout, to_rows
from ..core.spec import Spec
from ..kernels.gates_backward import gates_backward_kernel
from ..kernels.gates_forward import gates_forward_kernel
from ..kernels.parameter_grads import parameter_grads_kernel
from ..launch import Config, pick_config
from ..launch.launcher import LaunchArguments, launcher_of
from .step import BackwardStep, ForwardStep

_REDUCTION_PROGRAMS = 256
"""Programs that share the parameter reduction: about two for each multiprocessor of a large GPU. The
number is fixed, so that sums of one configuration are added in the same order on every run and device. Not
measured."""


def _row_stride(rows: Tensor) -> int:
    """Elements between two rows of (…, C); a dimension of one element may have any stride."""
    strides = (stride for size, stride in zip(rows.shape[-2::-1], rows.stride()[-2::-1]) if size > 1)
    return next(strides, rows.shape[-1])


NO_ROWS = ("bias_ptr", "peephole_ptr", "marks_ptr", "sums_ptr")
"""The tensors that have no row for each pixel."""


def _row_strides(tensors: dict[str, Tensor | None], but: tuple[str, ...] = ()) -> dict[str, int]:
    """The distances between rows of those tensors that are rows, all as far apart."""
    chosen = {name: tensor for name, tensor in tensors.items() if tensor is not None and name not in NO_ROWS + but}
    return {name: _row_stride(tensor) for name, tensor in chosen.items()}


def _options(config: Config) -> dict[str, object]:
    """What the compiler is told, and the kernel with it."""
    options = {"LAUNCH_PDL": config.launch_pdl, "num_warps": config.num_warps}
    return options | {"launch_pdl": True} if config.launch_pdl else options  # an option that AMD's compiler lacks


class TritonCell:
    def __init__(self, layout: Layout, spec: Spec, like: Tensor, bias: Tensor | None, peephole: Tensor | None):
        self._layout, self._spec, self._dtype = layout, spec, like.dtype
        self._arch = architecture(like.device)
        self._forward_names = {"tanh": "tanh_to_bfloat16"} if like.dtype == torch.bfloat16 else {}
        """What activations are called forward. Backward, the slope of a tanh of c needs more precision."""
        # The kernel adds the bias as it reads; cuDNN's convolution would do so in a pass of its own.
        self.bias, self._bias = None, None if bias is None else bias.contiguous()
        self._peephole, self._peephole_kind = None, "none"
        if peephole is not None:
            pixels = math.prod(peephole.shape[1:-1])  # 0 for an empty image
            self._peephole = peephole.reshape(3, pixels, layout.channels)
            self._peephole_kind = "channel" if self._peephole.shape[1] == 1 else "full"
        parameters = [None if each is None else each.dtype for each in (bias, peephole)]
        sizes = layout.batch, layout.spatial, layout.channels
        self._launch = launcher_of(spec.pointwise, spec.memory, *sizes, like.dtype, *parameters, self._peephole_kind)

    @staticmethod
    def rows(images: Tensor) -> Tensor:
        return to_rows(images).contiguous()

    @staticmethod
    def new_gates(like: Tensor, steps: int) -> Tensor:
        """Gates (steps, B, *spatial, 4C), written over their pre-activations."""
        *outer, channels = like.shape
        return like.new_empty(steps, *outer, 4 * channels)

    def preact_buffers(self, gates: Tensor) -> list[Tensor | None]:
        if len(gates):
            return list(gates.unbind())
        return [self._layout.new_step(gates, 4 * self._layout.channels)] * self._layout.steps

    def _config(self, kernel: str) -> Config:
        return pick_config(kernel, self._arch, self._dtype.itemsize, self._layout.channels)

    def _grid(self, config: Config) -> tuple[int]:
        """One program for each tile of BLOCK elements of (M, C)."""
        return (triton.cdiv(self._layout.rows * self._layout.channels, config.block),)

    def forward(self, step: ForwardStep) -> None:
        config, marks = self._config("gates_forward"), step.marks
        tensors = {
            "preact_ptr": step.preact,
            "addend_ptr": step.addend,
            "bias_ptr": self._bias,
            "peephole_ptr": self._peephole,
            "c_prev_ptr": step.c_prev,
            "gates_ptr": step.gates,
            "c_ptr": step.c,
            "h_ptr": step.h,
            "h_next_ptr": step.h_next,
            "marks_ptr": None if marks is None else marks.marks,
            "h_prev_ptr": None if marks is None else marks.h_prev,
            "reset_h_ptr": None if marks is None else marks.reset_h,
            "reset_c_ptr": None if marks is None else marks.reset_c,
            "output_ptr": None if marks is None else marks.output,
        }
        h_next = None if step.h_next is None else step.h_next.stride()
        resets = None if marks is None else marks.reset_c is not None
        variant = "forward", config, step.c_prev.dtype, step.addend is None, step.gates is None, h_next, resets
        self._launch(gates_forward_kernel, tensors, variant, lambda: self._prepare_forward(tensors, config))

    def _prepare_forward(self, tensors: dict[str, Tensor | None], config: Config) -> LaunchArguments:
        strides = _row_strides(tensors)
        arguments = {
            "n_rows": self._layout.rows,
            "n_pixels": self._layout.pixels,
            "C": self._layout.channels,
            "stride_h_next_row": strides.get("h_next_ptr", 0),
            "HAS_ADDEND": tensors["addend_ptr"] is not None,
            "HAS_BIAS": self._bias is not None,
            "PEEPHOLE": self._peephole_kind,
            "ACTIVATION": self._forward_names.get(self._spec.activation, self._spec.activation),
            "RECURRENT_ACTIVATION": self._spec.recurrent_activation,
            "OUTPUT_ACTIVATION": self._forward_names.get(self._spec.activation_of_c, self._spec.activation_of_c),
            "CELL_CLIP": self._spec.cell_clip,
            "SAVE_GATES": tensors["gates_ptr"] is not None,
            "HAS_H_NEXT": tensors["h_next_ptr"] is not None,
            "HAS_MARKS": tensors["marks_ptr"] is not None,
            "HAS_RESETS": tensors["reset_c_ptr"] is not None,
            "BLOCK": config.block,
            **_options(config),
        }
        return LaunchArguments(self._grid(config), strides, arguments)

    def backward(self, step: BackwardStep) -> None:
        """`step.c` is read only where it is clipped; else the kernel recomputes it, which takes less time."""
        config, grad_output, marks = self._config("gates_backward"), step.grad_output, step.marks
        if grad_output is not None and grad_output.dim() > 4:
            grad_output = grad_output.flatten(1, -3)  # D and H are one dimension: a copy only where they do not merge
        tensors = {
            "gates_ptr": step.gates,
            "bias_ptr": self._bias if self._spec.recomputes else None,
            "peephole_ptr": self._peephole,
            "c_prev_ptr": step.c_prev,
            "c_ptr": None if self._spec.cell_clip is None else step.c,
            "grad_output_ptr": grad_output,
            "grad_h_ptr": step.grad_h,
            "grad_c_ptr": step.grad_c,
            "grad_preact_ptr": step.grad_preact,
            "marks_ptr": None if marks is None else marks.marks,
            "reset_c_ptr": None if marks is None else marks.reset_c,
            "grad_held_ptr": None if marks is None else marks.grad_held,
            "grad_reset_h_ptr": None if marks is None else marks.grad_reset_h,
            "grad_reset_c_ptr": None if marks is None else marks.grad_reset_c,
        }
        of_output = None if grad_output is None else (grad_output.dtype, grad_output.stride())
        resets = None if marks is None else (marks.reset_c is not None, marks.grad_reset_c is not None)
        dtypes = step.c_prev.dtype, step.grad_h.dtype
        variant = "backward", config, dtypes, of_output, step.grad_h.stride(), resets
        self._launch(gates_backward_kernel, tensors, variant, lambda: self._prepare_backward(tensors, config))

    def _prepare_backward(self, tensors: dict[str, Tensor | None], config: Config) -> LaunchArguments:
        grad_output, kind, image_strides = tensors["grad_output_ptr"], "none", (0, 0, 0, 0)
        if grad_output is not None:
            kind = "dense" if grad_output.is_contiguous() else "strided"
            batch, *spatial, channel = grad_output.stride()
            image_strides = batch, *([0] * (2 - len(spatial))), *spatial, channel
        strides = _row_strides(tensors, but=("grad_output_ptr",) if kind == "strided" else ())
        arguments = {
            "n_rows": self._layout.rows,
            "n_pixels": self._layout.pixels,
            "width": self._layout.spatial[-1] if self._layout.spatial else 1,
            "stride_grad_output_b": image_strides[0],
            "stride_grad_output_h": image_strides[1],
            "stride_grad_output_w": image_strides[2],
            "stride_grad_output_c": image_strides[3],
            "C": self._layout.channels,
            "stride_grad_h_row": strides["grad_h_ptr"],
            "ACTIVATED": not self._spec.recomputes,
            "HAS_BIAS": self._bias is not None and self._spec.recomputes,
            "PEEPHOLE": self._peephole_kind,
            "ACTIVATION": self._spec.activation,
            "RECURRENT_ACTIVATION": self._spec.recurrent_activation,
            "OUTPUT_ACTIVATION": self._spec.activation_of_c,
            "CELL_CLIP": self._spec.cell_clip,
            "GRAD_OUTPUT": kind,
            "HAS_MARKS": tensors["marks_ptr"] is not None,
            "HAS_RESETS": tensors["reset_c_ptr"] is not None,
            "GRAD_RESETS": tensors["grad_reset_c_ptr"] is not None,
            "BLOCK": config.block,
            **_options(config),
        }
        return LaunchArguments(self._grid(config), strides, arguments)

    def parameter_grads(self, like: Tensor, *, bias: bool, peephole: bool) -> "TritonParameterGrads":
        pixels = self._peephole.shape[1] if peephole else None
        return TritonParameterGrads(self._layout, like, bias=bias, peephole_pixels=pixels, dtype=self._dtype)


class TritonParameterGrads:
    """`peephole_pixels` is the packed peephole's (1 or H·W), None where its gradient is not wanted; `dtype` is dA's."""

    def __init__(self, layout: Layout, like: Tensor, *, bias: bool, peephole_pixels: int | None, dtype: torch.dtype):
        self._layout = layout
        self._bias, self._peephole = bias, peephole_pixels is not None
        self._is_empty = peephole_pixels == 0  # a full peephole of an image without pixels
        self._pixels = peephole_pixels or 1
        columns = self._pixels * layout.channels
        self._column_block = min(triton.next_power_of_2(columns), 256)
        self._column_programs = triton.cdiv(columns, self._column_block)
        self._config = pick_config("parameter_grads", architecture(like.device), dtype.itemsize, layout.channels)
        self._repeat_block = max(1, self._config.block // self._column_block)
        most_repeats = layout.steps * layout.rows // self._pixels
        splits = min(
            triton.cdiv(_REDUCTION_PROGRAMS, self._column_programs), triton.cdiv(most_repeats, self._repeat_block)
        )
        self._sums = like.new_zeros(splits, 7, self._pixels, layout.channels)
        self._launch = launcher_of(layout, bias, peephole_pixels, dtype, self._config)

    def add(self, grad_preact: Tensor, c_prev: Tensor, c: Tensor) -> None:
        tensors = {"grad_preact_ptr": grad_preact, "c_prev_ptr": c_prev, "c_ptr": c, "sums_ptr": self._sums}
        steps = len(grad_preact)
        variant = "parameter_grads", steps, c.dtype
        self._launch(parameter_grads_kernel, tensors, variant, lambda: self._prepare(tensors, steps))

    def _prepare(self, tensors: dict[str, Tensor | None], steps: int) -> LaunchArguments:
        repeats = steps * self._layout.rows // self._pixels
        splits = len(self._sums)
        arguments = {
            "n_repeats": repeats,
            "n_pixels": self._pixels,
            "repeats_per_split": triton.cdiv(repeats, splits),
            "C": self._layout.channels,
            "HAS_BIAS": self._bias,
            "HAS_PEEPHOLE": self._peephole,
            "BLOCK_REPEATS": self._repeat_block,
            "BLOCK_COLUMNS": self._column_block,
            **_options(self._config),
        }
        # One program for each block of columns and split of the repeats.
        return LaunchArguments((self._column_programs, splits), _row_strides(tensors), arguments)

    def result(self) -> tuple[Tensor | None, Tensor | None]:
        sums = self._sums.sum(0)
        bias = sums[:4].sum(1).flatten() if self._bias else None
        if not self._peephole:
            return bias, None
        return bias, sums[4:, :0] if self._is_empty else sums[4:]
