"""Write the README's figures of speed from the committed results, and its plot.

python -m bench.readme            puts the block between the markers in README.md, and draws docs/speed.png
python -m bench.readme --check    exits with 1 where README.md says something else

The results are those of a GPU, where there are any in bench/results, else of a CPU.
"""

import argparse
import sys
from pathlib import Path

from .environment import ROOT, Environment
from .providers import CONV_FLOOR, EAGER, OURS
from .rows import ABSENT, OK, Row, read
from .table import EAGER_FORMATS, best_eager, points, speed_up

BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
BEFORE = "## The equations"
"""The heading that the block comes before, where the README has no markers yet."""

PLOT = ROOT / "docs/speed.png"
RUNS = ("contenders", "compiled", "max-autotune", "JAX")
LEVEL = 0.03
"""Medians that differ by less are called level."""


def results(folder: Path = ROOT / "bench/results") -> Path | None:
    """The file of results that is told: the first GPU's by name, else the CPU's."""
    found = sorted(folder.glob("*/speed.csv"), key=lambda path: (path.parent.name == "cpu", path.parent.name))
    return found[0] if found else None


def told(rows: list[Row]) -> list[Row]:
    """The rows that a reader wants: of one dtype, without our own variants."""
    chosen = [row for row in rows if row.key.run in RUNS]
    chosen = [row for row in chosen if row.key.dtype == chosen[0].key.dtype]
    return [row for row in chosen if row.provider == OURS.name or not row.provider.startswith(f"{OURS.name},")]


Speeds = dict[tuple[str, str], dict[str, float]]
"""By case and mode, how many times as fast we are as each contender."""


def _contender(row: Row) -> str:
    """Whom a row is told as: eager is one contender, whatever its memory format."""
    return EAGER.name if row.provider in EAGER_FORMATS else row.provider


def speeds(rows: list[Row]) -> Speeds:
    found: Speeds = {}
    chosen = told(rows)
    # Each contender is compared with our time in the same run, variants without peepholes included.
    for key, group in points([row for row in rows if row.key in {row.key for row in chosen}]):
        own = found.setdefault((key.case, key.mode), {})
        for row in group:
            if row not in chosen or row.provider in (OURS.name, CONV_FLOOR.name):
                continue
            best = best_eager(row.launch, group) if row.provider in EAGER_FORMATS else row
            ratio = None if best is None else speed_up(best, group)
            if ratio is not None:
                own.setdefault(_contender(row), ratio)
    return found


def _table(rows: list[Row], by_case: Speeds) -> list[str]:
    contenders = list(dict.fromkeys(name for each in by_case.values() for name in each))
    launches = {_contender(row): row.launch for row in rows if row.status == OK}
    heads = [
        "case",
        "",
        "launch",
        f"{OURS.name}, ms (p20–p80)",
        "× convolutions alone",
        *(f"against {name} ({launches[name]})" for name in contenders),
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    seen = set()
    for row in rows:
        point = row.key.case, row.key.mode
        if row.provider != OURS.name or row.status != OK or point in seen:
            continue
        seen.add(point)
        floor = "" if row.x_conv_floor is None else f"{row.x_conv_floor:.2f}"
        ratios = [f"{by_case[point][name]:.2f}×" if name in by_case[point] else "" for name in contenders]
        time = f"{row.median_ms:.3g} ({row.p20_ms:.3g}–{row.p80_ms:.3g})"
        sizes = f"{row.key.case}: {row.key.sizes}"
        lines.append(f"| {' | '.join([sizes, row.key.mode, row.launch, time, floor, *ratios])} |")
    return lines


def _points(found: list[tuple[str, str, str, float]]) -> str:
    """ "eager in paper's training (0.95×)", and so on."""
    return ", ".join(f"{name} in {case}'s {mode} ({ratio:.2f}×)" for case, mode, name, ratio in found)


def _where_not_faster(by_case: Speeds) -> str:
    every = [(case, mode, name, ratio) for (case, mode), own in by_case.items() for name, ratio in own.items()]
    slower = [each for each in every if each[-1] < 1 - LEVEL]
    level = [each for each in every if abs(each[-1] - 1) <= LEVEL]
    sentences = [f"Slower than {_points(slower)}." if slower else "Slower than none of them in these cases."]
    if level:
        sentences.append(f"Level, within {LEVEL:.0%}, with {_points(level)}.")
    return " ".join(sentences)


def _measured(rows: list[Row]) -> set[str]:
    return {row.provider for row in rows if row.status == OK}


def _missing(rows: list[Row]) -> str:
    """Who was not measured at all, and why."""
    told_anyway = _measured(rows) | {OURS.name, CONV_FLOOR.name}
    reasons = {}
    for row in rows:
        if row.provider not in told_anyway:
            reasons.setdefault(row.provider, row.reason if row.status == ABSENT else row.status)
    return f"Not measured: {', '.join(f'{name} ({reason})' for name, reason in reasons.items())}." if reasons else ""


def _explanation(rows: list[Row]) -> str:
    """How the table is to be read."""
    lines = [
        "Against a contender: its median time over ours in the same run, so above 1 we are faster; those without",
        "peepholes against our layer without. Launch: replays of a CUDA graph, or calls from Python; each is compared",
        "with our time in the same launch. Convolutions alone: the same ones, without all that is between.",
    ]
    if _measured(rows).issuperset(EAGER_FORMATS):
        lines.append("Eager: with images channels last or contiguous, whichever is faster in that case and mode.")
    return "\n".join(lines)


def _hardware(environment: Environment, dtype: str) -> str:
    parts = [environment.device]
    parts.append(
        f"driver {environment.driver}, cuDNN {environment.cudnn}"
        if environment.driver
        else f"{environment.threads} threads"
    )
    tf32 = " (convolutions in TF32)" if dtype == "float32" and environment.float32 == "tf32" else ""
    parts.append(f"torch {environment.torch}, Triton {environment.triton}, {dtype}{tf32}, commit {environment.commit}")
    return f"{', '.join(parts)}; made by `{environment.command}`."


def block(path: Path) -> str:
    """The README's block from a file of results, markers included."""
    rows, environment = read(path)
    chosen = told(rows)
    by_case = speeds(rows)
    paragraphs = [
        "![Time by case, in multiples of the convolutions alone](docs/speed.png)",
        "\n".join(_table(chosen, by_case)),
        _explanation(chosen),
        " ".join(filter(None, [_where_not_faster(by_case), _missing(chosen)])),
        _hardware(environment, chosen[0].key.dtype),
    ]
    return "\n\n".join([BEGIN, *paragraphs, END])


def insert(text: str, made: str) -> str:
    """The README's text with the block in its place; in a section of its own where there was none."""
    if BEGIN in text:
        before, rest = text.split(BEGIN, 1)
        return before + made + rest.split(END, 1)[1]
    before, rest = text.split(BEFORE, 1)
    return f"{before}## Speed\n\n{made}\n\n{BEFORE}{rest}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.readme", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether README.md is up to date")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="the file to write to")
    parser.add_argument("--plot", type=Path, default=PLOT, help="the plot to draw")
    options = parser.parse_args(arguments)
    path = results()
    if path is None:
        print("readme: no bench/results/*/speed.csv yet", file=sys.stderr)
        return 1
    text = options.readme.read_text()
    made = insert(text, block(path))
    if options.check:
        print(f"{options.readme}: {'as' if made == text else 'not as'} {path.relative_to(ROOT)} has it")
        return int(made != text)
    from .plots import save_bars  # only to draw is matplotlib needed

    options.readme.write_text(made)
    save_bars(path, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
