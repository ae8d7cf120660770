"""The host's time of launches is measured with the kernels compiled, for a GPU that need not be there."""

import pytest

from bench import host_cost
from tests.support.compiling import compiling


def costs(calls: int) -> dict[str, dict[str, float]]:
    return {name: host_cost.measure(work, calls, rounds=1) for name, work in host_cost.WORK.items()}


def test_everything_is_measured_in_both_ways():
    measured = compiling(costs, 3)
    assert measured.keys() == host_cost.WORK.keys()
    for cost in measured.values():
        assert cost.keys() == {"Triton's launcher", "ours"} and min(cost.values()) > 0


def test_interpreted_nothing_is_launched(capsys: pytest.CaptureFixture):
    assert host_cost.main([]) == 2
    assert "host_cost: TRITON_INTERPRET is set" in capsys.readouterr().err
