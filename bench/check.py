"""Correctness before speed: a contender against the float64 oracle, on the very tensors that are timed.

The budget of an error is PyTorch's own in the same dtype and memory format, by the tuner's table of tolerances, which
is the tests': the largest over a few random problems, since that of one depends on chance. The format counts: oneDNN's
5×5 convolutions (AVX2, float32) err about twice as much contiguous as channels last.
"""

import torch
from torch import Tensor

from tritonlstm import reference
from tritonlstm.tuning.check import FACTOR, FLOOR
from tritonlstm.tuning.launches import DTYPES

from .cases import Problem, problem, stored
from .providers.protocol import Built, Results

Named = dict[str, Tensor]

_FLOOR = {dtype: FLOOR[name] for name, dtype in DTYPES.items()}

DRAWS = 3
"""Problems of one case whose largest error of PyTorch's makes the budget."""


class WrongResult(AssertionError):
    """A contender computes something else."""


def _named(results: Results, gradients: list[Tensor], problem: Problem) -> Named:
    named = {"output": results.output}
    for index, (h, c) in enumerate(results.states):
        named |= {f"h of layer {index}": h, f"c of layer {index}": c}
    names = [
        f"grad of {name} of layer {index}"
        for index, layer in enumerate(problem.layers)
        for name, tensor in layer._asdict().items()
        if tensor is not None
    ]
    return named | dict(zip(names, gradients, strict=True))


def _by_reference(problem: Problem, memory_format: torch.memory_format = torch.channels_last) -> Named:
    """Everything in the problem's dtype and in that format, by the equations in plain PyTorch."""
    layers = problem.leaves(memory_format)
    output, states = stored(problem.input, memory_format), []
    for (_, channels), parameters in zip(problem.case.layers, layers):
        zeros = output.new_zeros(output.shape[1], channels, *output.shape[3:])
        output, h, c = reference.sequence(output, zeros, zeros, *parameters)
        states.append((h.detach(), c.detach()))
    leaves = [tensor for layer in layers for tensor in layer.present()]
    gradients = list(torch.autograd.grad(output, leaves, stored(problem.cotangent, memory_format)))
    return _named(Results(output.detach(), states), gradients, problem)


def _oracle(problem: Problem) -> Named:
    """The float64 results, made image by image: autograd's graph of a whole batch may not fit a GPU."""
    parts = [_by_reference(problem.image(index).to(torch.float64)) for index in range(problem.case.batch)]

    def join(name: str, tensors: list[Tensor]) -> Tensor:
        if name.startswith("grad"):
            return torch.stack(tensors).sum(0)
        return torch.cat(tensors, 1 if name == "output" else 0)

    return {name: join(name, [part[name] for part in parts]) for name in parts[0]}


def _error(got: Tensor, right: Tensor) -> float:
    return (got.double() - right.to(got.device)).abs().max().item()


class Oracle:
    """What is right for one problem, kept on the CPU, and how far from it each result may be."""

    def __init__(self, given: Problem):
        self._draws = [(given, self._expect(given))]
        self._expected = self._draws[0][1]
        self._budgets = {}

    @staticmethod
    def _expect(given: Problem) -> Named:
        # Beside a half type's roundings those of float32 are nothing.
        kept = torch.float32 if given.input.dtype.itemsize == 2 else torch.float64
        return {name: right.to("cpu", kept) for name, right in _oracle(given).items()}

    def _budgets_in(self, memory_format: torch.memory_format) -> dict[str, float]:
        """How far from what is right each result may be, stored in that format."""
        if memory_format in self._budgets:
            return self._budgets[memory_format]
        given = self._draws[0][0]
        like, has_peephole = given.input, given.layers[0].peephole is not None
        for seed in range(len(self._draws), DRAWS):
            drawn = problem(given.case, like.dtype, like.device, peephole=has_peephole, seed=seed)
            self._draws.append((drawn, self._expect(drawn)))
        budgets, floor = dict.fromkeys(self._expected, 0.0), _FLOOR[like.dtype]
        for drawn, expected in self._draws:
            own = _by_reference(drawn, memory_format)
            for name, right in expected.items():
                budget = FACTOR * _error(own[name], right) + floor * right.abs().max().item()
                budgets[name] = max(budgets[name], budget)
        self._budgets[memory_format] = budgets
        return budgets

    def check(self, built: Built, problem: Problem, slack: float = 1.0) -> float:
        """The largest error as a part of its budget, on that very problem.

        Raises WrongResult where it is above one, or `slack`.
        """
        # Copied at once: a contender with CUDA graphs of its own overwrites what it returned.
        results = built.results(built.infer(built.load_input(problem.input)))
        results = Results(results.output.clone(), [(h.clone(), c.clone()) for h, c in results.states])
        arguments = built.load_input(problem.input), built.load_cotangent(problem.cotangent)
        gradients = built.gradients(built.train(*arguments))
        got = _named(results, [each.clone() for each in gradients], problem)
        budgets = [self._budgets_in(memory_format) for memory_format in built.memory_formats]
        worst = 0.0
        for name, right in self._expected.items():
            if got[name].shape != right.shape:
                raise WrongResult(f"{name}: shape {tuple(got[name].shape)}, not {tuple(right.shape)}")
            budget = max(each[name] for each in budgets)
            allowed, error = slack * budget, _error(got[name], right)
            if not error <= allowed:  # NaN is wrong too
                raise WrongResult(f"{name}: error {error:.1e}, allowed {allowed:.1e}")
            worst = max(worst, error / budget)
        return worst


class Oracles:
    """A run's oracles: contenders, modes and launches come and go, and what is right for a problem stays."""

    def __init__(self):
        self._made = {}

    def of(self, problem: Problem) -> Oracle:
        key = problem.case, problem.input.dtype, problem.layers[0].peephole is None
        if key not in self._made:
            self._made[key] = Oracle(problem)
        return self._made[key]
