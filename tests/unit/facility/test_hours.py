"""Rows of the lake -> hours of a site: only readings teach, unknown is NaN, and sites do not mix."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from lepton_etl.facility.hours import PlantHours, day_of, plant_hours
from lepton_etl.schema.energy import SITE_HOUR
from lepton_etl.schema.ledger import ENERGY_LEDGER
from lepton_etl.schema.types import arrow_schema

START = datetime(2025, 6, 3, tzinfo=UTC)


def hour(at: int) -> datetime:
    return START + timedelta(hours=at)


def site_row(at: int, it_kwh: float | None, site_id: str = "here", **more: Any) -> dict[str, Any]:
    return {"site_id": site_id, "hour_start": hour(at), "date": START.date(), "it_energy_kwh": it_kwh,
            "outdoor_wet_bulb_temp_c": 12.0, "facility_metered_kwh": 150.0} | more  # fmt: skip


def account(
    at: int, name: str, kwh: float | None, basis: str = "measured", site_id: str = "here"
) -> dict[str, Any]:
    return {"site_id": site_id, "hour_start": hour(at), "date": START.date(), "side": "account",
            "ledger_account": name, "account_kwh": kwh, "account_basis": basis}  # fmt: skip


def heat(*rows: tuple[int, str, float | None]) -> pl.DataFrame:
    return pl.DataFrame(
        [("here", hour(at), point, kwh) for at, point, kwh in rows],
        schema={"site_id": pl.String, "hour_start": pl.Datetime("us", "UTC"), "point": pl.String,
                "energy_kwh": pl.Float64},
        orient="row",
    )  # fmt: skip


def hours_of(
    sites: list[dict[str, Any]], accounts: list[dict[str, Any]], heats: pl.DataFrame | None = None
) -> dict[str, PlantHours]:
    return plant_hours(
        pl.DataFrame(pa.Table.from_pylist(sites, schema=arrow_schema(SITE_HOUR))),
        pl.DataFrame(pa.Table.from_pylist(accounts, schema=arrow_schema(ENERGY_LEDGER))),
        heat() if heats is None else heats,
    )


def test_only_measured_accounts_teach() -> None:
    found = hours_of(
        [site_row(at, 100.0) for at in range(3)],
        [
            account(0, "cooling", 20.0), account(0, "management", 5.0), account(0, "conversion_loss", 8.0),
            account(1, "cooling", 21.0, "modelled"), account(1, "management", 5.0),
            account(2, "cooling", 22.0), account(2, "management", 5.0, "silent"),
        ],
    )["here"]  # fmt: skip
    assert found.usable.tolist() == [True, False, False]
    assert found.overhead_kwh[0] == 25.0
    assert np.isnan(found.overhead_kwh[1:]).all(), "never filled from the boundary where parts are metered"
    assert np.isnan(found.cooling_kwh[1]) and found.loss_kwh[0] == 8.0


def test_a_site_without_sub_meters_has_what_its_boundary_shows_above_it() -> None:
    found = hours_of([site_row(0, 100.0), site_row(1, None), site_row(2, 120.0)], [])["here"]
    assert not found.is_sub_metered
    assert found.overhead_kwh[[0, 2]].tolist() == [50.0, 30.0]
    assert found.usable.tolist() == [True, False, True]


def test_heat_is_the_sum_of_known_meters_without_what_leaves_the_site() -> None:
    found = hours_of(
        [site_row(at, 100.0) for at in range(3)],
        [],
        heat(
            (0, "chiller", 60.0),
            (0, "other", 45.0),
            (0, "export", 30.0),
            (1, "chiller", None),
            (1, "other", 9.0),
        ),
    )["here"]
    assert found.heat_kwh[0] == 105.0
    assert np.isnan(found.heat_kwh[1:]).all()


def test_sites_do_not_mix_and_a_week_before_is_the_same_hour() -> None:
    sites = [site_row(at, 100.0 + at) for at in (0, 1, 168, 170)] + [site_row(0, 1.0, "there")]
    found = hours_of(
        sites, [account(0, "cooling", 7.0, site_id="there"), account(0, "management", 1.0, site_id="there")]
    )
    assert set(found) == {"here", "there"}
    assert found["there"].overhead_kwh.tolist() == [8.0]
    here = found["here"]
    assert here.a_week_before()[2] == here.overhead_kwh[0]
    assert np.isnan(here.a_week_before()[[0, 1, 3]]).all()
    assert day_of(int(here.day[0])) == date(2025, 6, 3)
