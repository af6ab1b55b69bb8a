"""The 24/7 carbon-free energy score."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton_etl.errors import ConfigurationError
from lepton_etl.indicators.carbon_free import CfeHour, cfe_kwh, read_cfe_hours

HEADER = "hour_start,contracted_kwh,grid_cfe_ratio"


def test_a_surplus_of_one_hour_helps_no_other_hour() -> None:
    """100 % by the year is 50 % by the hour here: 20 kWh are used, 20 kWh are made, all in one hour."""
    used = [cfe_kwh(10.0, made, 0.0) for made in (20.0, 0.0)]
    assert used == [10.0, 0.0]


def test_the_grids_share_counts_for_what_is_not_covered() -> None:
    assert cfe_kwh(10.0, 4.0, 0.5) == pytest.approx(7.0)


def test_an_unknown_grid_share_leaves_the_hour_unknown_unless_own_energy_covers_it() -> None:
    assert cfe_kwh(10.0, 4.0, None) is None
    assert cfe_kwh(10.0, 12.0, None) == 10.0


def test_hours_are_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "cfe.csv"
    file.write_text(f"{HEADER}\n2025-06-03T00:00Z,5,0.4\n2025-06-03T03:00+02:00,,\n", encoding="utf-8")
    assert read_cfe_hours(file) == {
        datetime(2025, 6, 3, 0, tzinfo=UTC): CfeHour(5.0, 0.4),
        datetime(2025, 6, 3, 1, tzinfo=UTC): CfeHour(None, None),
    }
    for row, what in (
        ("2025-06-03T00:30Z,5,0.4", ":2: hour_start .* no full hour"),
        ("2025-06-03,5,40", ":2: grid_cfe_ratio 40 is outside"),
        ("noon,5,0.4", ":2: hour_start 'noon'"),
        ("2025-06-03T00:00Z,x,0.4", ":2: contracted_kwh 'x'"),
    ):
        file.write_text(f"{HEADER}\n{row}\n", encoding="utf-8")
        with pytest.raises(ConfigurationError, match=what):
            read_cfe_hours(file)
