"""Accounts and residual of one site-hour, against cases worked out by hand (tests/cases/ledger)."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lepton_etl.config.sections import LedgerSettings
from lepton_etl.facility.modelled_meters import default_stages, stage_sums
from lepton_etl.ledger.accounts import (
    IT_HOURS,
    METERS,
    PART_HOURS,
    Accounts,
    meter_errors,
    modelled_hours,
    site_accounts,
)
from lepton_etl.ledger.balance import BALANCE, findings, ledger_rows, node_hours
from lepton_etl.ledger.reconcile import Checks, build_train, check_meters
from lepton_etl.schema.common import BOUNDARY

CASES = Path(__file__).resolve().parents[2] / "cases" / "ledger"
NAMES = sorted(folder.name for folder in CASES.iterdir() if folder.is_dir())
HOUR = {"site_id": "s", "hour_start": datetime(2025, 6, 3, tzinfo=UTC)}


def read(file: Path) -> list[dict[str, str | None]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return [{name: cell or None for name, cell in row.items()} for row in csv.DictReader(lines)]


def frame(rows: list[dict[str, str | None]], schema: pl.Schema) -> pl.DataFrame:
    full = [{name: HOUR.get(name, row.get(name)) for name in schema} for row in rows]
    columns = {}
    for name, type_ in schema.items():
        values = [row[name] for row in full]
        if type_ == pl.Float64:
            values = [None if value is None else float(value) for value in values]
        elif type_ == pl.Boolean:
            values = [value == "true" for value in values]
        columns[name] = values
    return pl.DataFrame(columns, schema=schema)


def booked(case: str) -> tuple[Accounts, Checks]:
    """The accounts of a case and what its meters say of each other, as gold makes them."""
    folder = CASES / case
    meters = read(folder / "meters.csv")
    for meter in meters:
        sign = BOUNDARY.get(meter["point"] or "")
        meter["direction"] = None if sign is None else str(sign)
    classes = METERS | {"class_pct": pl.Float64()}
    known = meter_errors(frame(meters, pl.Schema(classes)).drop("sigma_kwh", "class_basis")).select(
        list(METERS)
    )
    it_hours = frame(read(folder / "it_hours.csv"), IT_HOURS)
    stand_ins = read(folder / "modelled.csv") if (folder / "modelled.csv").exists() else []
    owned = pl.sum_horizontal("jobs_kwh", "idle_kwh")
    nodes = it_hours.select("site_id", "hour_start", owned.alias("energy_kwh"))
    modelled = modelled_hours(
        [
            frame(stand_ins, PART_HOURS),
            default_stages(stage_sums(known), nodes, ("transformer", "ups", "pdu")),
        ]
    )
    accounts = site_accounts(known, it_hours, modelled)
    checks = check_meters(it_hours.select(*HOUR), known, node_hours(accounts, it_hours), modelled)
    return accounts, checks


def accounts_of(case: str) -> Accounts:
    return booked(case)[0]


@pytest.mark.parametrize("case", NAMES)
def test_case(case: str) -> None:
    found = {row["ledger_account"]: row for row in ledger_rows(*booked(case)).to_pylist()}
    expected = read(CASES / case / "expected.csv")
    assert expected
    for row in expected:
        got = found[str(row["account"])]
        for name in ("account_kwh", "residual_kwh"):
            wanted = None if row[name] is None else pytest.approx(float(str(row[name])), abs=1e-9)
            if name == "account_kwh" or row["account"] == BALANCE:
                assert got[name] == wanted, (row["account"], name)
        assert got["account_basis"] == row["account_basis"]
        assert got["balance_state"] == row["balance_state"]


def test_an_error_that_nobody_knows_is_not_none() -> None:
    accounts, checks = booked("node_error_unknown")
    rows = {row["ledger_account"]: row for row in ledger_rows(accounts, checks).to_pylist()}
    assert (rows["jobs"]["account_lower_kwh"], rows["jobs"]["account_upper_kwh"]) == (None, None)
    assert rows[BALANCE]["residual_sigma_kwh"] is None
    assert "nodes" not in checks.rows.filter("is_checked")["meter_id"].to_list()
    assert "nodes" in booked("closed")[1].rows.filter("is_checked")["meter_id"].to_list()


def test_a_meter_says_what_is_not_known_of_its_error() -> None:
    rows = booked("class_not_stated")[1].rows
    bases = dict(rows.select("meter_id", "check_basis").unique().iter_rows())
    assert bases["u"] == "meter class 2.0, assumed, noise unknown"


@pytest.mark.parametrize(("sigma", "flow_kwh"), [("0.1", 2.5), (None, None)])
def test_a_model_that_does_not_say_how_far_it_errs_checks_nothing(
    sigma: str | None, flow_kwh: float | None
) -> None:
    cooling = frame(
        [{"part": "cooling", "energy_kwh": "2.5", "sigma_kwh": sigma, "basis": "model"}], PART_HOURS
    )
    hours, none = pl.DataFrame([HOUR]).select("hour_start"), frame([], METERS)
    train = build_train(hours, none, none.select("hour_start", "energy_kwh", "sigma_kwh"), cooling)
    (value,) = train.value_kwh[:, train.names.index("model:cooling")]
    assert (None if np.isnan(value) else value) == flow_kwh


def test_a_silent_feed_moves_the_residual_and_nothing_else() -> None:
    """The same hour with the network's feed and without it, losses booked by their curves in both."""
    before = booked("network_feed_silent")
    meters = read(CASES / "closed" / "meters.csv")
    assert any(meter["meter_id"] == "pn" and meter["energy_kwh"] for meter in meters)
    spoken = {r["ledger_account"]: r["account_kwh"] for r in ledger_rows(*booked("closed")).to_pylist()}
    silent = {r["ledger_account"]: r["account_kwh"] for r in ledger_rows(*before).to_pylist()}
    moved = {
        name for name in spoken if name != BALANCE and spoken[name] != pytest.approx(silent[name], abs=1e-12)
    }
    assert moved == {"data_transfer"}
    assert silent["data_transfer"] is None


def test_the_gate_names_site_hour_and_meter() -> None:
    accounts, checks = booked("utility_doubled")
    found = findings(ledger_rows(accounts, checks), accounts, checks, LedgerSettings(), has_jobs=True)
    assert [one.when for one in found] == ["2025-06-03", "2025-06-03T00:00Z"]
    assert "likeliest u (u 20.000 kWh, 10.25" in found[1].text


def test_unattributed_energy_is_refused_only_where_jobs_are_accounted() -> None:
    accounts, checks = booked("node_energy_lost")
    rows = ledger_rows(accounts, checks)
    assert findings(rows, accounts, checks, LedgerSettings(), has_jobs=False) == []
    (found,) = findings(rows, accounts, checks, LedgerSettings(), has_jobs=True)
    assert "1.500 kWh of 6.600 kWh IT energy have no job, idle or service owner" in found.text


def test_what_nothing_checks_is_not_refused_and_says_which_meter_would() -> None:
    accounts, checks = booked("no_submeters")
    rows, strict = ledger_rows(accounts, checks), LedgerSettings(residual_max_ratio=0)
    assert findings(rows, accounts, checks, strict, has_jobs=True) == []
    (balance,) = (row for row in rows.to_pylist() if row["ledger_account"] == BALANCE)
    assert balance["detail"] == (
        "not known: cooling, management; nothing checks utility: a meter of transformer_out would"
    )


def test_what_a_silent_feed_hides_is_limited() -> None:
    accounts, checks = booked("network_feed_silent")
    rows = ledger_rows(accounts, checks)
    (found,) = findings(rows, accounts, checks, LedgerSettings(), has_jobs=True)
    assert "residual of the day +0.600 kWh of 10.000 kWh, tolerance 0.500 kWh" in found.text
    assert findings(rows, accounts, checks, LedgerSettings(residual_max_ratio=0.07), has_jobs=True) == []


def test_a_meter_in_two_accounts_cancels_in_the_residual() -> None:
    """ups_out leaves one stage and enters the next: its error is in neither their sum nor the residual."""
    by_term = {
        name: sum(
            row["sigma_kwh"]
            for row in accounts_of("closed").terms.to_dicts()
            if row["term"] == f"meter:{name}"
        )
        for name in ("uo", "ui")
    }
    assert by_term["uo"] == pytest.approx(0.0, abs=1e-12)
    assert by_term["ui"] > 0
