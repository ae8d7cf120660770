"""Correctness before speed: every provider against the float64 oracle, on the very tensors that are timed.

The budget of an error is PyTorch's own in the same dtype and memory format: the largest over a few random problems,
since that of a single one depends on chance. The memory format counts: with oneDNN's 5×5 convolutions in float32 on an
AVX2 CPU the errors of contiguous images are about twice those of channels-last ones.
"""

from functools import cache, partial

import torch
from torch import Tensor

from tritonlstm import reference
from tritonlstm.tuning.cases import Case
from tritonlstm.tuning.timing import cudnn_plans
from tritonlstm.tuning.tolerances import budget, largest_error

from .cases import Problem, flat, problem, stored
from .providers.protocol import Built, Results

DRAWS = 3
"""Problems of one case whose largest budget counts."""

Named = dict[str, Tensor]


class WrongResult(AssertionError):
    """A provider computes something else."""


def _named(results: Results, gradients: list[Tensor], problem: Problem) -> Named:
    named = {"output": results.output}
    for index, (h, c) in enumerate(results.states):
        named |= {f"h of layer {index}": h, f"c of layer {index}": c}
    names = [f"grad of {name} of layer {index}" for index, layer in enumerate(problem.layers) for name in layer]
    return named | dict(zip(names, gradients, strict=True))


def _by_reference(problem: Problem, memory_format: torch.memory_format = torch.channels_last) -> Named:
    """All results by the equations in plain PyTorch, in the problem's dtype and that memory format."""
    layers = problem.leaves(memory_format)
    output, states = stored(problem.input, memory_format), []
    for (_, channels), parameters in zip(problem.case.layers, layers):
        zeros = output.new_zeros(output.shape[1], channels, *output.shape[3:])
        output, h, c = reference.sequence(output, zeros, zeros, **parameters)
        states.append((h.detach(), c.detach()))
    gradients = list(torch.autograd.grad(output, flat(layers), stored(problem.cotangent, memory_format)))
    return _named(Results(output.detach(), states), gradients, problem)


@cudnn_plans(tried=False)
def _by_oracle(problem: Problem) -> Named:
    """The float64 results, computed image by image: autograd's graph of a whole batch may not fit a GPU."""
    parts = [_by_reference(problem.image(index)) for index in range(problem.case.batch)]

    def join(name: str) -> Tensor:
        tensors = [part[name] for part in parts]
        return sum(tensors) if name.startswith("grad") else torch.cat(tensors, 1 if name == "output" else 0)

    return {name: join(name) for name in parts[0]}


class Oracle:
    """The problem of a case, its right results, and how far from them each result may be."""

    def __init__(self, case: Case, dtype: torch.dtype, device: torch.device, peephole: bool):
        self._draw = partial(problem, case, dtype, device, peephole=peephole)
        self.problem = self._draw(seed=0)
        self._right, self._budgets = cache(self._right), cache(self._budgets)

    def check(self, built: Built, slack: float = 1.0) -> float:
        """The largest error as a fraction of its budget. Raises WrongResult if it is above `slack`."""
        input, cotangent = built.load(self.problem.input), built.load(self.problem.cotangent)
        results = built.results(built.infer(input))
        # Copied before the next call: a provider with buffers of its own overwrites what it returned.
        results = Results(results.output.clone(), [(h.clone(), c.clone()) for h, c in results.states])
        got = _named(results, built.gradients(built.train(input, cotangent)), self.problem)
        budgets, worst = self._budgets(built.memory_format), 0.0
        for name, right in self._right(0).items():
            if got[name].shape != right.shape:
                raise WrongResult(f"{name}: shape {tuple(got[name].shape)}, not {tuple(right.shape)}")
            error, allowed = largest_error(got[name], right), slack * budgets[name]
            if not error <= allowed:  # NaN is wrong too
                raise WrongResult(f"{name}: error {error:.1e}, allowed {allowed:.1e}")
            worst = max(worst, error / budgets[name])
        return worst

    def _right(self, seed: int) -> Named:
        """The oracle's results, kept on the CPU. float32's rounding is negligible beside that of a half type."""
        kept = torch.float32 if self.problem.input.dtype.itemsize == 2 else torch.float64
        return {name: right.to("cpu", kept) for name, right in _by_oracle(self._draw(seed=seed)).items()}

    def _budgets(self, memory_format: torch.memory_format) -> dict[str, float]:
        largest = dict.fromkeys(self._right(0), 0.0)
        for seed in range(DRAWS):
            plain = _by_reference(self._draw(seed=seed), memory_format)
            for name, right in self._right(seed).items():
                largest[name] = max(largest[name], budget(plain[name], right, self.problem.input.dtype))
        return largest
