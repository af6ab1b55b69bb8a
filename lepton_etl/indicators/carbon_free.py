"""The 24/7 carbon-free energy score: own and contracted energy of the hour, then the grid's share of the rest."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from lepton_etl.errors import ConfigurationError

COLUMNS: Final = ("hour_start", "contracted_kwh", "grid_cfe_ratio")


@dataclass(frozen=True, slots=True)
class CfeHour:
    """Carbon-free energy delivered under contracts in one hour, and the carbon-free share of the grid; None unknown."""

    contracted_kwh: float | None
    grid_cfe_ratio: float | None


def cfe_kwh(consumed_kwh: float, own_kwh: float, grid_cfe_ratio: float | None) -> float | None:
    """Carbon-free energy used in one hour: min(C, K) + (C - min(C, K)) x g.

    K is own and contracted, g (0..1) the grid's share; where g is unknown only an hour that K covers is known. A
    surplus of one hour helps no other hour: annual volumes of 100 % can be half of it by the hour.
    Source: Google, 24/7 Carbon-Free Energy: Methodologies and Metrics (2021).
    """
    own = min(consumed_kwh, own_kwh)
    rest = consumed_kwh - own
    if rest <= 0:
        return own
    return None if grid_cfe_ratio is None else own + rest * grid_cfe_ratio


def read_cfe_hours(path: Path) -> dict[datetime, CfeHour]:
    """The hours of a CSV with COLUMNS; stamps are ISO 8601 starts of UTC hours, an empty cell is unknown.

    Raises ConfigurationError naming file and line.
    """
    found: dict[datetime, CfeHour] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, strict=True)
            if tuple(rows.fieldnames or ()) != COLUMNS:
                raise _error(path, 1, f"the columns are {', '.join(COLUMNS)}")
            for row in rows:
                at = _hour(path, rows.line_num, row["hour_start"] or "")
                if at in found:
                    raise _error(path, rows.line_num, f"{at:%Y-%m-%dT%H:%MZ} stands twice")
                found[at] = CfeHour(
                    _number(path, rows.line_num, "contracted_kwh", row["contracted_kwh"], math.inf),
                    _number(path, rows.line_num, "grid_cfe_ratio", row["grid_cfe_ratio"], 1.0),
                )
    except OSError as error:
        raise ConfigurationError(f"cannot read it: {error.strerror}", where=str(path)) from error
    return found


def _hour(path: Path, line: int, text: str) -> datetime:
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        raise _error(path, line, f"hour_start {text!r} is no ISO 8601 time") from None
    at = stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)
    if timedelta(minutes=at.minute, seconds=at.second, microseconds=at.microsecond):
        raise _error(path, line, f"hour_start {text!r} is no full hour")
    return at


def _number(path: Path, line: int, name: str, text: str | None, most: float) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        raise _error(path, line, f"{name} {text!r} is no number") from None
    if not (math.isfinite(value) and 0 <= value <= most):
        raise _error(path, line, f"{name} {text} is outside 0 .. {most:g}")
    return value


def _error(path: Path, line: int, what: str) -> ConfigurationError:
    return ConfigurationError(what, where=f"{path}:{line}", remedy="mend the file")
