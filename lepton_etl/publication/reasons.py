"""Why a figure changed: what the day rests on now against what it rested on when it was last published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lepton_etl.fields.words import REASONS

UNKNOWN: Final = "unknown"
# A change of these inputs can move only the columns that begin so; every other reason can move any column.
# Energy from meters and prices do not reach back into the nodes' own figures.
_REACH: Final[Mapping[str, tuple[str, ...]]] = {
    "intensity": ("carbon_", "emissions_", "sci_"),
    "factors": ("carbon_", "embodied_", "emissions_", "it_energy_", "market_", "sci_", "water_"),
    "instruments": ("emissions_market", "market_"),
    "scope1": ("emissions_", "sci_"),
    "tariff": ("cost", "currency", "demand_cost", "energy_cost", "fixed_cost"),
}
# Tables whose rows hold any figure in one column, told apart by their key.
_ANY_COLUMN: Final = ("gold/kpi",)


def changed_inputs(before: Mapping[str, str] | None, now: Mapping[str, str]) -> tuple[str, ...]:
    """The reasons whose marks differ, in the order of the dictionary; `unknown` where nothing explains a change."""
    if before is None:
        return (UNKNOWN,)
    found = tuple(reason for reason in REASONS if before.get(reason) != now.get(reason))
    return found or (UNKNOWN,)


def reasons_of(table: str, column: str, reasons: tuple[str, ...]) -> tuple[str, ...]:
    """The reasons of the day that can have moved this column; all of them where none can."""
    if table in _ANY_COLUMN:
        return reasons
    found = tuple(r for r in reasons if r not in _REACH or column.startswith(_REACH[r]))
    return found or (UNKNOWN,)
