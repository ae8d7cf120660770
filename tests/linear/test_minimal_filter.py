"""Minimal filters against the sums that they stand for."""

import pytest
import torch

from tritonlstm.linear.minimal_filter import minimal_filter


@pytest.mark.parametrize("taps", [3, 5, 7])
@pytest.mark.parametrize("results", [4, 8])
def test_a_filter_is_exact_and_has_few_products(taps: int, results: int):
    filter = minimal_filter(taps, results, torch.float64)
    weight, input = (torch.randn(size, dtype=torch.float64) for size in (taps, results + taps - 1))
    products = (filter.weight @ weight) * (filter.input @ input)
    expected = torch.stack([input[first : first + taps] @ weight for first in range(results)])
    torch.testing.assert_close(filter.output @ products, expected, rtol=0, atol=1e-13)
    assert len(products) == 3 * (taps + results - 3) // 2 + 1 < taps * results


@pytest.mark.parametrize("taps", [3, 5, 7])
@pytest.mark.parametrize("results", [4, 8])
def test_transposed_it_is_the_gradient_of_the_taps(taps: int, results: int):
    filter = minimal_filter(taps, results, torch.float64)
    grad, input = (torch.randn(size, dtype=torch.float64) for size in (results, results + taps - 1))
    got = filter.weight.t() @ ((filter.output.t() @ grad) * (filter.input @ input))
    expected = torch.stack([input[first : first + results] @ grad for first in range(taps)])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)
