"""The facility fit on real tables: on earlier days only, the same again without a commit, read back for its day."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import structlog

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.facility.fit import FacilityFit, predict_overhead
from lepton_etl.facility.hours import PlantHours
from lepton_etl.lake.tables import Lake
from lepton_etl.models.registry import Registry, facility_model
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import SITE_HOUR
from lepton_etl.schema.facility import FACILITY_FIT
from lepton_etl.schema.fleet import FACILITY_INTERVAL, METER
from lepton_etl.schema.ledger import ENERGY_LEDGER
from lepton_etl.schema.types import arrow_schema
from pipelines.engine import LocalEngine
from pipelines.ledger import begin_fit, fits_of, run_fit
from pipelines.stage import Ahead, StageContext
from pipelines.train import register_fits
from tests.unit.facility.plant import FIRST_DAY, simulated

SITE = "simsite"
DAYS = 20
SETTINGS = """\
site: {site_id: simsite}
lake: {root: lake}
mlflow: {tracking_uri: "sqlite:///mlflow.db", artifact_location: mlartifacts}
fleet: {inventory: inventory.csv}
facility: {model: {resamples: 20}}
sources: [{name: bmc, format: ipmitool, path: "*.txt"}]
"""


def rows(table: Table, found: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(found, schema=arrow_schema(table))


def lay_down(lake: Lake, hours: PlantHours) -> None:
    """The hours as site hours, ledger accounts and meters of the UPS."""
    starts = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in hours.hour.tolist()]
    days = Days(starts[0].date(), starts[-1].date())
    sites, accounts, intervals = [], [], []
    for at, start in enumerate(starts):
        head = {"date": start.date(), "hour_start": start, "site_id": SITE, "status": "provisional"}
        sites.append(
            head | {"it_energy_kwh": float(hours.it_kwh[at]), "pue_basis": "none", "energy_basis": "measured",
                    "outdoor_wet_bulb_temp_c": float(hours.wet_bulb_c[at])}
        )  # fmt: skip
        for name, energy in (("cooling", hours.cooling_kwh), ("management", hours.management_kwh)):
            accounts.append(
                head | {"side": "account", "ledger_account": name, "account_kwh": float(energy[at]),
                        "account_basis": "measured"}
            )  # fmt: skip
        for meter_id, point, energy in (
            ("in", "ups_in", hours.it_kwh + hours.loss_kwh), ("out", "ups_out", hours.it_kwh),
        ):  # fmt: skip
            intervals.append(
                {"site_id": SITE, "meter_id": meter_id, "point": point, "interval_start": start,
                 "date": start.date(), "interval_s": 3600, "energy_kwh": float(energy[at]),
                 "observed_s": 3600.0, "flags": []}
            )  # fmt: skip
    valid_from = datetime(2025, 1, 1, tzinfo=UTC)
    meters = [
        {"site_id": SITE, "meter_id": meter_id, "point": point, "carrier": "electricity", "sign": 1,
         "unit": "kW", "multiplier": 1.0, "kind": "power", "label": "start", "valid_from": valid_from}
        for meter_id, point in (("in", "ups_in"), ("out", "ups_out"))
    ]  # fmt: skip
    lake.overwrite(METER, rows(METER, meters))
    for table, found in ((SITE_HOUR, sites), (ENERGY_LEDGER, accounts), (FACILITY_INTERVAL, intervals)):
        lake.replace(table, days, rows(table, found))


def test_the_fit_of_a_day_is_of_earlier_days_and_comes_back_for_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "site.yaml").write_text(SETTINGS)
    settings = load(tmp_path / "site.yaml")
    lake = Lake(settings.lake.root)
    hours = simulated(DAYS)
    lay_down(lake, hours)
    day = FIRST_DAY + timedelta(days=DAYS - 1)

    def context(of: date) -> StageContext:
        return StageContext(lake, settings, Days.of(of), "run", structlog.get_logger())

    assert run_fit(context(FIRST_DAY + timedelta(days=1))) is None, "one day before it is too few"
    written = run_fit(context(day))
    assert written is not None and (written.rows, written.changed) == (1, True)
    lake.forget_inputs()
    again = run_fit(context(day))
    assert again is not None and not again.changed
    read = dict(lake.inputs)
    assert set(read) >= {SITE_HOUR.name, ENERGY_LEDGER.name, METER.name, FACILITY_INTERVAL.name}
    with LocalEngine(1) as engine:
        engine.begin_aside(int)
        fit = begin_fit(replace(context(day), engine=engine))
        lake.forget_inputs()
        aside = run_fit(replace(context(day), ahead=Ahead(fit=fit)))
    assert aside is not None and not aside.changed and lake.inputs == read
    (row,) = lake.read(FACILITY_FIT, Days.of(day)).to_dicts()
    assert (row["fitted_from"], row["fitted_until"]) == (FIRST_DAY, day - timedelta(days=1))
    assert row["fit_hours"] == (DAYS - 1) * 24
    fits, stages = fits_of(lake, day)
    today = hours.at(hours.day == hours.day[-1])
    made = predict_overhead(fits[SITE], today.it_kwh, today.wet_bulb_c)
    assert made.total_kwh.sum() == pytest.approx(today.overhead_kwh.sum(), rel=0.3)
    assert set(stages[SITE]) == {"ups"}
    loss_kwh = stages[SITE]["ups"].from_output(today.it_kwh)
    assert np.abs(loss_kwh / today.loss_kwh - 1).max() < 0.02
    assert fits_of(lake, day + timedelta(days=1)) == ({}, {})
    _is_registered(context(day), fits[SITE], hours)


def _is_registered(context: StageContext, fit: FacilityFit, hours: PlantHours) -> None:
    """A version with its card and hash, once; what a consumer loads says what the fit says."""
    registry = Registry.of(context.settings.mlflow)
    name = facility_model(SITE)
    (note,), _ = register_fits(context, registry)
    version = registry.latest(name, "chosen", fit.kind)
    assert version is not None
    assert note.startswith(f"{name} version 1 {'is champion' if fit.accepted else 'refused: '}")
    assert register_fits(context, registry) == ((f"{name} version 1 is this fit: nothing registered",), ())
    model = registry.verified_model(name, version="1")
    frame = pd.DataFrame({"it_energy_kwh": hours.it_kwh, "outdoor_wet_bulb_temp_c": hours.wet_bulb_c})
    told = predict_overhead(fit, hours.it_kwh, hours.wet_bulb_c).total_kwh
    assert model.predict(frame) == pytest.approx(told, rel=1e-9)


def test_a_site_of_any_name_has_a_name_in_the_registry() -> None:
    assert facility_model("fra-1") == "facility-overhead-fra-1"
    assert facility_model("fra/1") != facility_model("fra.1")
    assert all(len(facility_model(site)) <= 63 for site in ("x" * 200, "ü/" * 60))
