"""`lepton-etl factors`: the factors that a site's figures take, how old they are, which are missing or unchecked."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from lepton_etl.carbon.used_factors import FactorUse, used_factors
from lepton_etl.config.settings import Settings
from lepton_etl.csv_cells import write_csv
from lepton_etl.errors import printable
from lepton_etl.registers.factors import load_factors

_COLUMNS: Final = (
    "figure", "table", "keys", "value", "unit", "valid_from", "valid_to", "age_years", "state", "source", "licence",
)  # fmt: skip
_WIDTH: Final = 200


def print_factors(settings: Settings, day: date, newer: Path | None, *, as_csv: bool) -> None:
    """Print every factor in use on a day, with the rows of `newer` before those of the settings' own file.

    Raises ConfigurationError for a factor file that is wrong.
    """
    carbon = settings.carbon
    factors = load_factors(carbon.factors, newer or carbon.own_factors)
    uses = used_factors(factors, carbon, settings.grid.zone if settings.grid else None, day)
    if as_csv:
        write_csv(sys.stdout, _COLUMNS, map(_cells, uses))
        return
    table = Table(box=None)
    for name in _COLUMNS:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for use in uses:
        table.add_row(*(printable(cell) or "-" for cell in _cells(use)))
    console = Console(width=max(Console().width, _WIDTH), markup=False, emoji=False)
    console.print(table)
    found = [use.factor for use in uses if use.factor]
    aged = sum(factor.age_years > 0 for factor in found)
    unchecked = sum(factor.unchecked for factor in found)
    console.print(
        f"{len(uses)} factors for {day}: {aged} of another year, {len(uses) - len(found)} missing, {unchecked} not "
        "compared with their source. A newer row goes into a file of its own, named as the table (carbon.own_factors, "
        "or --newer to try it)."
    )  # fmt: skip


def _cells(use: FactorUse) -> Iterator[str]:
    factor = use.factor
    yield from (use.figure, use.table, " ".join(value for _, value in use.keys))
    if factor is None:
        yield from ("", "", "", "", "", "missing", "", "")
        return
    states = ["aged"] * (factor.age_years > 0) + ["unchecked"] * factor.unchecked
    yield from (f"{factor.value:g}", factor.unit, factor.valid_from.isoformat())
    yield factor.valid_to.isoformat() if factor.valid_to else ""
    yield from (str(factor.age_years), " ".join(states) or "holds", factor.source, factor.licence)
