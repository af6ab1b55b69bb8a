"""Market-based Scope 2: ranks, what may be claimed, what is left."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.carbon.market import (
    Instrument,
    MarketMix,
    annual_kwh,
    instruments_of,
    market_mix,
    market_rows,
)
from lepton_etl.errors import ConfigurationError
from lepton_etl.registers.instruments import read_instruments

YEAR = 2025
HEADER = (
    "instrument_id,instrument_type,zone_id,volume_kwh,vintage_year,instrument_intensity_gco2e_per_kwh,technology,"
    "retirement_id,valid_from,valid_to"
)


def instrument(
    name: str,
    kind: str = "certificate",
    volume: float | None = 400.0,
    factor: float = 0.0,
    vintage: int | None = YEAR,
    zone: str = "DE",
    retired: str | None = "R1",
    span: tuple[int, int] | None = None,
) -> Instrument:
    begin = datetime(span[0] if span else YEAR, 1, 1, tzinfo=UTC)
    end = datetime(span[1], 1, 1, tzinfo=UTC) if span else None
    return Instrument(name, kind, zone, volume, vintage, factor, "wind", retired, begin, end)


def mix(*instruments: Instrument, consumed: float = 1000.0, residual: float | None = 700.0) -> MarketMix:
    return market_mix(
        instruments, year=YEAR, zone_id="DE", consumption_kwh=consumed, residual_g_per_kwh=residual
    )


def test_certificates_then_contracts_then_the_residual_mix() -> None:
    found = mix(instrument("ppa", "contract", 300.0, 30.0), instrument("go"))
    assert [match.matched_kwh for match in found.matches] == [400.0, 300.0]
    assert found.matched_ratio == pytest.approx(0.7)
    assert found.matched_g_per_kwh == pytest.approx(300 * 30 / 700)
    assert found.rest_g_per_kwh == 700.0, "unmatched energy takes the residual mix, not the grid average"
    assert found.basis == "mixed"


def test_a_supplier_without_volume_covers_all_that_is_left() -> None:
    found = mix(instrument("tariff", "supplier", None, 250.0), instrument("go"))
    assert found.matched_ratio == 1.0
    assert {m.instrument.instrument_id: m.matched_kwh for m in found.matches} == {
        "go": 400.0,
        "tariff": 600.0,
    }


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (instrument("go", vintage=2024), "vintage 2024, not 2025"),
        (instrument("go", zone="FR"), "market FR, not DE"),
        (instrument("go", retired=None), "not retired"),
        (instrument("ppa", "contract", span=(2023, 2025)), "not valid in 2025"),
    ],
)
def test_what_may_not_be_claimed_matches_nothing_and_says_why(bad: Instrument, reason: str) -> None:
    found = mix(bad)
    assert (found.matched_ratio, found.basis) == (0.0, "residual_mix")
    (row,) = market_rows(found, "s", "provisional")
    assert (row["matched_kwh"], row["balance_kwh"], row["instrument_reason"]) == (0.0, 400.0, reason)


def test_a_contract_counts_with_its_share_of_the_year() -> None:
    found = mix(instrument("ppa", "contract", 731.0, span=(2024, 2026)))
    assert found.matches[0].matched_kwh == pytest.approx(365.0), "2024 has 366 of the 731 days"


def test_without_a_residual_mix_the_grid_average_is_flagged() -> None:
    assert mix(instrument("go"), residual=None).basis == "residual_mix_missing"
    assert mix(instrument("go"), consumed=300.0, residual=None).basis == "certificate"


@given(st.lists(st.floats(0.0, 1e6), max_size=6), st.floats(0.0, 1e6))
def test_matched_never_exceeds_consumption_or_volume(volumes: list[float], consumed: float) -> None:
    found = mix(*(instrument(f"go{n}", volume=volume) for n, volume in enumerate(volumes)), consumed=consumed)
    assert sum(match.matched_kwh for match in found.matches) <= consumed * (1 + 1e-12)
    assert 0 <= found.matched_ratio <= 1
    for match, volume in zip(found.matches, volumes, strict=True):
        assert match.matched_kwh + (match.balance_kwh or 0.0) == pytest.approx(volume, abs=1e-6)


def test_annual_volumes_are_spread_over_the_year_that_is_expected() -> None:
    quarter = datetime(YEAR, 4, 2, 6, tzinfo=UTC)  # a quarter of 365 days
    assert annual_kwh(250.0, YEAR, quarter, None) == pytest.approx(1000.0)
    assert annual_kwh(250.0, YEAR, quarter, 1200.0) == 1200.0
    assert annual_kwh(1300.0, YEAR, quarter, 1200.0) == 1300.0
    assert annual_kwh(990.0, YEAR, datetime(YEAR + 1, 1, 1, tzinfo=UTC), 1200.0) == 990.0


def test_a_register_is_read_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "instruments.csv"
    good = "go-1,certificate,DE,400,2025,0,wind,R1,2025-01-01,"
    file.write_text(f"{HEADER}\n{good}\n", encoding="utf-8")
    (found,) = instruments_of(read_instruments(file, "s").to_pylist())
    assert found == instrument("go-1")
    for row, place in (
        (good.replace("go-1", "go-2"), "retirement_id.*R1.*line 2"),
        ("go-2,certificate,DE,,2025,0,wind,,2025-01-01,", ":3:volume_kwh"),
        ("go-2,certificate,DE,400,,0,wind,,2025-01-01,", ":3:vintage_year"),
        ("go-2,guarantee,DE,400,2025,0,wind,,2025-01-01,", ":3:instrument_type"),
    ):
        file.write_text(f"{HEADER}\n{good}\n{row}\n", encoding="utf-8")
        with pytest.raises(ConfigurationError, match=place):
            read_instruments(file, "s")
