"""What a run of either benchmark ends with: its table, and its plots where matplotlib is installed."""

from .rows import Rows
from .table import table


def show(rows: Rows) -> None:
    """Print the table and, of rows that are saved, draw the plots beside them."""
    print(table(rows.all))
    if rows.path is None or not rows.all:
        return
    try:
        from .plots import draw
    except ImportError:
        print("no plots: matplotlib is not installed")
    else:
        print(*draw(rows.path), sep="\n")
    print(f"written to {rows.path}")
