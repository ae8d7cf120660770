"""The covering itself: a pair that it left out would be a combination that no test sees."""

from itertools import combinations, product

import pytest

from tests.support.covering import Row, describe, pairwise

OPTIONS = {"color": ("red", "green"), "size": (1, 2, 3), "shape": ("round", "square"), "price": range(7)}


def pairs(rows: list[Row]) -> set[tuple]:
    return {pair for row in rows for pair in combinations(row.items(), 2)}


def fits(row: Row) -> bool:
    """No square has size 1, and whatever has price 6 is green and of size 3."""
    if row.get("price") == 6 and (row.get("color", "green"), row.get("size", 3)) != ("green", 3):
        return False
    return (row.get("size"), row.get("shape")) != (1, "square")


@pytest.mark.parametrize("fits", [lambda row: True, fits], ids=["all", "some"])
def test_has_every_pair_that_a_row_may_have_and_only_rows_that_fit(fits):
    rows = pairwise(OPTIONS, fits)
    possible = [row for values in product(*OPTIONS.values()) if fits(row := dict(zip(OPTIONS, values)))]
    assert all(row in possible for row in rows)
    assert pairs(rows) == pairs(possible)
    assert len(rows) < len(possible) / 2


def test_a_pair_that_fits_but_cannot_be_completed_is_left_out():
    def fits(row: Row) -> bool:
        return row.keys() != OPTIONS.keys() or row["size"] != 2

    assert {row["size"] for row in pairwise(OPTIONS, fits)} == {1, 3}


def test_two_options_give_their_product_and_are_always_in_the_same_order():
    options = {"one": "ab", "other": "cde"}
    rows = pairwise(options)
    assert sorted(map(describe, rows)) == ["a-c", "a-d", "a-e", "b-c", "b-d", "b-e"]
    assert rows == pairwise(options)
    assert all(list(row) == ["one", "other"] for row in rows)


def test_few_rows_cover_many_options():
    """Ten options of three values have 59,049 combinations, and every covering at least 9 rows."""
    assert len(pairwise({f"option {index}": "abc" for index in range(10)})) <= 24
