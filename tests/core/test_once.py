"""Checks that run once for each combination of shapes, dtypes and devices."""

import pytest
import torch
from torch import Tensor

from tritonlstm.core import once as module
from tritonlstm.core.once import once


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch):
    """A check of tensors that counts its calls, refuses integers, and returns the first tensor's dimensions."""
    monkeypatch.setattr(module, "_passed", {})
    calls = []

    def run(tensors: tuple[Tensor | None, ...], *rest: object) -> int:
        calls.append(rest)
        if not tensors[0].is_floating_point():
            raise TypeError("an integer")
        return tensors[0].dim()

    run.calls = calls
    return run


def test_what_passed_is_not_checked_again(check):
    for _ in range(3):
        assert once(check, (torch.zeros(2, 3), None), "a") == 2
    assert len(check.calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        ((torch.zeros(3, 2), None), "a"),
        ((torch.zeros(2, 3, dtype=torch.float64), None), "a"),
        ((torch.zeros(2, 3, device="meta"), None), "a"),
        ((torch.zeros(2, 3).to_sparse(), None), "a"),
        ((torch.zeros(2, 3), torch.zeros(1)), "a"),
        ((torch.zeros(2, 3), None), "b"),
    ],
    ids=["shape", "dtype", "device", "layout", "present", "rest"],
)
def test_anything_else_is_checked(check, other: tuple):
    once(check, (torch.zeros(2, 3), None), "a")
    once(check, *other)
    assert len(check.calls) == 2


def test_what_failed_is_checked_again(check):
    for _ in range(2):
        with pytest.raises(TypeError, match="an integer"):
            once(check, (torch.zeros(2, dtype=torch.int32),))
    assert len(check.calls) == 2


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_has_no_metadata_comes_to_the_check(check):
    with pytest.raises(AttributeError):
        once(check, ([1.0],))
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    assert once(check, (nested,)) == once(check, (nested,)) == 2
    assert len(check.calls) == 3


def test_under_autocast_every_call_is_checked(check):
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            once(check, (torch.zeros(2),))
    assert len(check.calls) == 2


def test_memory_is_bounded(check, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_MOST_PASSED", 4)
    for size in range(10):
        once(check, (torch.zeros(size),))
    assert len(module._passed) <= 4
