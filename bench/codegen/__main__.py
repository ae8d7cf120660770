"""Compile every kernel for every architecture, print the figures and compare them with the committed table.

python -m bench.codegen            exits with 1 if a rule is broken or a figure differs
python -m bench.codegen --update   writes the table
"""

import argparse
import sys

from tritonlstm.core import output
from tritonlstm.tuning import aot

from . import table


def main() -> int:
    output.make_robust()
    parser = argparse.ArgumentParser(prog="python -m bench.codegen", description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the figures to the committed table")
    parser.add_argument("--arch", action="append", choices=table.ARCHITECTURES, help="only this one (repeatable)")
    options = parser.parse_args()
    if options.update and options.arch:
        parser.error("--update: the table has all architectures, leave --arch out")
    if aot.interprets():
        parser.error("TRITON_INTERPRET is set: Triton interprets the kernels, and compiles none")

    points = list(table.points(tuple(options.arch or table.ARCHITECTURES)))
    rows = table.measure(points)
    print(table.text(rows))
    committed = {key: row for key, row in table.load()["kernels"].items() if options.arch is None or key in rows}
    broken = [line for point in points for line in table.violations(point, rows[point.key])]
    changed = table.differences(rows, committed)
    _print("Rules broken", broken)
    _print("Worse than the committed table", table.regressions(rows, committed))
    _print("Different from the committed table, which is out of date", changed)
    if options.update:
        table.save(rows)
        print(f"\nwritten to {table.PATH}")
        return 1 if broken else 0
    return 1 if broken or changed else 0


def _print(title: str, lines: list[str]) -> None:
    print(f"\n{title}: " + ("none" if not lines else "\n  " + "\n  ".join(lines)))


if __name__ == "__main__":
    sys.exit(main())
