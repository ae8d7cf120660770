"""The assertion that a result is within its budget; the table of tolerances is the package's."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from tritonlstm.tuning.tolerances import FLOOR, budget, largest_error

__all__ = ["FLOOR", "assert_all_within", "assert_within", "budget"]


def assert_within(name: str, got: Tensor, oracle: Tensor, budget: float) -> float:
    """`got` is as near to the float64 `oracle` as its budget allows. Returns the part of it that it takes."""
    assert got.shape == oracle.shape, f"{name}: shape {tuple(got.shape)}, oracle {tuple(oracle.shape)}"
    if got.numel() == 0:
        return 0.0
    assert got.isfinite().all(), f"{name}: not finite"
    error = largest_error(got, oracle)
    assert error <= budget, f"{name}: error {error:.3e}, budget {budget:.3e}"
    return error / budget if budget > 0 else 0.0


def assert_all_within(
    got: Mapping[str, Tensor], oracle: Mapping[str, Tensor], budgets: Iterable[Mapping[str, float]]
) -> float:
    """Every result is within its budget in the last of `budgets`. Returns the largest part of a budget that one takes.

    The budgets grow. So the first that holds for all results decides, and the others are not computed.
    """
    for allowed in budgets:
        if all(_is_within(got[name], oracle[name], allowed[name]) for name in oracle):
            break
    return max(assert_within(name, got[name], oracle[name], allowed[name]) for name in oracle)


def _is_within(got: Tensor, oracle: Tensor, allowed: float) -> bool:
    return got.shape == oracle.shape and largest_error(got, oracle) <= allowed
