"""Stacks with every option, against the oracle: a pairwise covering of what may be combined."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from tests.support import stacks
from tests.support.covering import Row, describe, pairwise
from tests.support.problems import MODES, PATHS
from tests.support.stacks import DIRECTIONS, GATES, MASKS, RETURNS
from tests.support.tolerances import assert_all_within, budget
from tritonlstm import LSTMState
from tritonlstm.core.dtypes import cell_dtype

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
OPTIONS = {
    "kind": ("images", "vectors"),
    "direction": DIRECTIONS,
    "peephole": ("none", "channel", "full"),
    "returns": RETURNS,
    "gates": GATES,
    "masks": MASKS,
    "state": (True, False),
    "batch_first": (False, True),
    "dtype": DTYPES,
    "mode": MODES,
    "path": PATHS,
}


def fits(row: Row) -> bool:
    """The kernels compute in float32, and vectors have no full peephole."""
    if (row.get("path"), row.get("dtype")) == ("triton", "fp64"):
        return False
    return (row.get("kind"), row.get("peephole")) != ("vectors", "full")


def call(layer: torch.nn.Module, row: Row, input: Tensor, state: list | None) -> list[Tensor]:
    """The results as a flat list, with time first."""
    masks = stacks.masks_of(row)
    if row["batch_first"]:
        input, masks = input.transpose(0, 1), {name: mask.t() for name, mask in masks.items()}
    output, states, *cells = layer(input, state, **RETURNS[row["returns"]], **masks)
    in_order = (lambda each: each.transpose(0, 1)) if row["batch_first"] and row["returns"] != "last" else lambda x: x
    return [*map(in_order, tree_leaves(output)), *tree_leaves(states), *map(in_order, tree_leaves(cells))]


class Case:
    """A stack with the options of a row, and its input, state and cotangents, which a seed decides."""

    def __init__(self, row: Row, seed: int):
        torch.manual_seed(seed)
        self._row, self._dtype = row, DTYPES[row["dtype"]]
        options = MODES[row["mode"]] | PATHS[row["path"]]
        self._layer = stacks.make(row, self._dtype, batch_first=row["batch_first"], **options)
        self._input = stacks.random_input(self._layer, self._dtype)
        self._state = stacks.random_state(self._layer, self._dtype) if row["state"] else None
        self._cotangents = None

    def solve(self, dtype: torch.dtype, *, by_oracle: bool) -> dict[str, Tensor]:
        """Results and all gradients."""
        row, layer = self._row, copy.deepcopy(self._layer).to(dtype)
        input = self._input.detach().to(dtype).requires_grad_()
        state = self._state and [
            (h.detach().to(dtype).requires_grad_(), c.detach().to(cell_dtype(dtype)).requires_grad_())
            for h, c in self._state
        ]
        if by_oracle:
            results = stacks.by_reference(layer, input, state, stacks.masks_of(row)).select(row["returns"], layer)
        else:
            results = call(layer, row, input, state)
        if self._cotangents is None:
            self._cotangents = [torch.randn_like(each, dtype=torch.float64) for each in results]
        return stacks.solve(results, self._cotangents, stacks.leaves_of(layer, input, state))


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("row", pairwise(OPTIONS, fits), ids=describe)
def test_results_and_gradients_agree_with_the_oracle(row: Row):
    dtype = DTYPES[row["dtype"]]

    def budgets() -> Iterator[dict[str, float]]:
        """The largest of a growing number of draws: few numbers have few roundings to tell a budget from."""
        largest = {}
        for seed in range(20):
            case = Case(row, seed)
            oracle, plain = case.solve(torch.float64, by_oracle=True), case.solve(dtype, by_oracle=True)
            for name in oracle:
                largest[name] = max(largest.get(name, 0.0), budget(plain[name], oracle[name], dtype))
            yield dict(largest)

    case = Case(row, 0)
    oracle = case.solve(torch.float64, by_oracle=True)
    assert_all_within(case.solve(dtype, by_oracle=False), oracle, budgets())


COMPILED = pairwise(
    {name: OPTIONS[name] for name in ("kind", "direction", "peephole", "returns", "gates", "masks")}
    | {"memory": ("save", "recompute"), "state": (True, False), "how": ("compiled", "exported")},
    fits,
)


@pytest.mark.parametrize("row", COMPILED, ids=describe)
def test_compiled_in_one_graph_and_exported(fresh_compiler, row: Row):
    """One operator for each layer and direction; results and gradients are those of eager mode."""
    layer = stacks.make(row, torch.float32, memory=row["memory"], backend="aten")
    input = stacks.random_input(layer, torch.float32)
    state = [LSTMState(*pair) for pair in stacks.random_state(layer, torch.float32)] if row["state"] else None
    call = RETURNS[row["returns"]] | stacks.masks_of(row)
    if row["how"] == "compiled":
        module = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    else:
        program = torch.export.export(copy.deepcopy(layer), (input, state), call)
        operators = [node for node in program.graph.nodes if "inference" in str(node.target)]
        assert len(operators) == len(stacks.cells_of(layer))
        module = program.module()
    results = []
    for run in (layer, module):
        leaves = tree_leaves(run(input, state, **call))
        grads = torch.autograd.grad(sum(each.square().sum() for each in leaves), list(run.parameters()))
        results.append([*leaves, *grads])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
