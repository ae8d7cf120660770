"""Compile every kernel for every architecture, print the figures and compare them with the committed table.

python -m bench.codegen            exits with 1 where a rule is broken or a figure differs
python -m bench.codegen --update   writes the table
"""

import argparse
import sys

from . import table
from .points import ARCHITECTURES, points


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.codegen", description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the figures to the committed table")
    parser.add_argument("--arch", action="append", choices=ARCHITECTURES, help="only this architecture (repeatable)")
    options = parser.parse_args()

    chosen = list(points(tuple(options.arch or ARCHITECTURES)))
    rows = table.measure(chosen)
    for key, row in rows.items():
        accesses = ", ".join(f"{count}×{width} B" for width, count in row["accesses"].items())
        print(
            f"{key:46} {row['registers']:4} registers  {row['spills']} spills  {row['shared']:5} B shared"
            f"  {row['instructions']:5} instructions  {accesses}"
        )
    problems = [line for point in chosen for line in table.violations(point, rows[point.key])]
    if options.update:
        table.save(rows)
    else:
        committed = {key: row for key, row in table.load()["kernels"].items() if key in rows}
        problems += table.differences(rows, committed)
    print("\n".join(problems) or "no rule broken, no figure changed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
