"""Results as pandas tables: read from a file, compared within each point, and as text."""

import io
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

import pandas as pd

from tritonlstm.core import files

from . import providers
from .rows import OK, Row

POINT = ["run", "case", "sizes", "dtype", "mode", "launch"]
"""Only rows that agree in these are compared."""

RUNS = ("baselines", "compiled", "max-autotune", "JAX")
"""The runs that the README and the bars show."""

EAGER = [each.name for each in (*providers.EAGER_FORMATS, *providers.EAGER_STEP_FORMATS)]
EAGER_CELLS = [each.name for each in providers.EAGER_CELL_FORMATS]
FLOOR = [each.name for each in providers.FLOORS]
"""Names of one baseline in two memory formats."""

OURS = [providers.OURS.name, providers.OURS_STEP.name]
OURS_WITHOUT_PEEPHOLE = [providers.OURS_WITHOUT_PEEPHOLE.name, providers.OURS_STEP_WITHOUT_PEEPHOLE.name]

TIME, MEMORY = ["time / ours", "time / eager", "time / convolutions"], ["memory / ours", "memory / eager"]

_FIGURES = ["median_ms", "p20_ms", "p80_ms", "peak_bytes", "compile_seconds"]
_NUMBERS = [*_FIGURES, "steps", "samples", "peephole"]


def frame(records: Iterable[dict]) -> pd.DataFrame:
    columns = [each.name for each in fields(Row)]
    rows = pd.DataFrame(records)
    return rows.reindex(columns=[*columns, *rows.columns.difference(columns)]).astype(dict.fromkeys(_FIGURES, float))


def read(path: Path) -> pd.DataFrame:
    content = files.read_text(path)
    names = pd.read_csv(io.StringIO(content), nrows=0).columns
    text = {name: str for name in names if name not in _NUMBERS}
    blank = {name: [""] for name in _FIGURES}
    rows = pd.read_csv(io.StringIO(content), dtype=text, keep_default_na=False, na_values=blank)
    if rows.empty:
        raise ValueError(f"{path}: no rows")
    return frame(rows)


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with the columns TIME and MEMORY: each row's over those of the same point.

    Ours: without peepholes if the row's provider has none. Eager and convolutions: the better memory format.
    """

    def least(column: str, names: list[str]) -> pd.Series:
        timed = rows[(rows.status == OK) & rows.provider.isin(names)]
        return rows.join(timed.groupby(POINT)[column].min().rename("least"), on=POINT)["least"]

    rows = rows.copy()
    peephole = rows.peephole | rows.provider.isin(FLOOR)
    for name, column in (("time", "median_ms"), ("memory", "peak_bytes")):
        ours = least(column, OURS).where(peephole, least(column, OURS_WITHOUT_PEEPHOLE))
        rows[f"{name} / ours"] = rows[column] / ours
        rows[f"{name} / eager"] = (rows[column] / least(column, EAGER)).where(rows.peephole)
    rows["time / convolutions"] = rows.median_ms / least("median_ms", FLOOR)
    return rows


def selected(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that the README shows: of one dtype, without our own variants."""
    rows = rows[rows.run.isin(RUNS)]
    rows = rows[rows.dtype == rows.dtype.iloc[0]]
    return rows[(rows.provider == providers.OURS.name) | ~rows.provider.str.startswith(f"{providers.OURS.name},")]


def text(rows: pd.DataFrame) -> str:
    """A table for each point."""
    rows = compared(rows)
    shown = pd.DataFrame({"": rows.provider, "launch": rows.launch, "ms": rows.median_ms})
    shown["p20–p80"] = [f"{p20:.4g}–{p80:.4g}" if p20 > 0 else "" for p20, p80 in zip(rows.p20_ms, rows.p80_ms)]
    shown["compile s"], shown["MB"] = rows.compile_seconds, rows.peak_bytes / 1e6
    shown[TIME + MEMORY] = rows[TIME + MEMORY]
    shown["note"] = rows.reason.where(rows.status == OK, rows.status + ": " + rows.reason)
    lines = []
    for (run, case, sizes, dtype, mode), group in rows.groupby(POINT[:-1], sort=False):
        lines.append(f"\n{case}: {sizes}, {dtype}, {mode} ({run})")
        own = shown.loc[group.index].dropna(axis="columns", how="all")
        lines.append(own.to_string(index=False, na_rep="", float_format="{:.4g}".format))
    return "\n".join(lines)
