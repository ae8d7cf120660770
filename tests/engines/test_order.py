"""The order of steps, in both directions: every range against a list of times."""

from itertools import pairwise, product

import pytest

from tritonlstm.engines.order import Order

ORDERS = [Order(steps, reverse) for steps, reverse in product((1, 2, 5, 8, 17), (False, True))]


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_neighbours_states_and_ends_follow_the_times(order: Order):
    times = list(order.times())
    assert sorted(times) == list(range(order.steps))
    assert times == sorted(times, reverse=order.reverse)
    assert (order.start, order.end) == (times[0], times[-1])
    for before, after in pairwise(times):
        assert (order.following(before), order.previous(after)) == (after, before)
        assert order.after(before) == order.before(after), "a step reads the cell state that the one before wrote"
    states = {order.before(t) for t in times} | {order.after(t) for t in times}
    assert states == set(range(order.steps + 1))


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("length", [1, 3, 8, 20])
def test_parts_are_full_but_for_the_last_one(order: Order, length: int):
    parts = list(dict.fromkeys(order.part(t, length) for t in order.times()))
    assert [t for part in parts for t in order.times(*part)] == list(order.times())
    assert all(last - first == min(length, order.steps) for first, last in parts[:-1])
    assert 1 <= parts[-1][1] - parts[-1][0] <= length


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_hidden_states_are_read_where_the_step_before_wrote_them(order: Order):
    for first in range(order.steps):
        for last in range(first + 1, order.steps + 1):
            times, sources = (list(range(each.start, each.stop)) for each in order.carried(first, last))
            assert times == [t for t in range(first, last) if t != order.start]
            assert sources == [order.previous(t) for t in times]
