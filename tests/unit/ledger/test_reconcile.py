"""Days of a site whose meters are right, or one of them wrong: what is called violated, and who is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from polars.testing import assert_frame_equal

from lepton_etl.facility.fit import StageLoss, fit_stage_loss
from lepton_etl.facility.modelled_meters import (
    default_stages,
    fitted_stages,
    modelled_stages,
    stage_sums,
    usual_loads,
)
from lepton_etl.ledger.accounts import METERS, meter_errors, modelled_hours
from lepton_etl.ledger.reconcile import NODE_HOURS, Checks, check_meters

Floats = NDArray[np.float64]

START = datetime(2025, 6, 3, tzinfo=UTC)
STAGES = ("transformer", "ups", "pdu")
POINTS = {
    "u": "utility", "t": "transformer_out", "ui": "ups_in", "uo": "ups_out", "p1": "pdu_out", "p2": "pdu_out",
    "ch": "chiller", "cr": "crah", "ho": "other",
}  # fmt: skip
# Gains that meters of class 1 may have for good.
GAINS = {
    "u": 1.004,
    "t": 0.996,
    "ui": 1.008,
    "uo": 0.994,
    "p1": 1.005,
    "p2": 0.993,
    "ch": 0.992,
    "cr": 1.01,
    "ho": 1.0,
}
DAY = slice(24, 48)


def truth(days: int = 2) -> dict[str, Floats]:
    """Hours of a site of some 100 kW whose load swings by a third, kWh."""
    hour = np.arange(24 * days)
    p1 = 50 + 17 * np.sin(hour / 24 * 2 * np.pi) + 3 * np.sin(hour * 2.1)
    p2 = 20 + 2 * np.cos(hour * 1.3)
    uo = (p1 + p2) * 1.008 + 0.3
    ui = uo * 1.03 + 1.6 + 4e-5 * uo**2.2
    ch, cr, ho = 0.2 * ui + np.sin(hour / 5), np.full(len(hour), 4.0), np.full(len(hour), 2.0)
    t = ui + ch + cr + ho
    return {
        "u": t * 1.009 + 0.4,
        "t": t,
        "ui": ui,
        "uo": uo,
        "p1": p1,
        "p2": p2,
        "ch": ch,
        "cr": cr,
        "ho": ho,
    }


def read(days: int = 2) -> dict[str, Floats]:
    return {name: value * GAINS[name] for name, value in truth(days).items()}


def frame(readings: dict[str, Floats]) -> pl.DataFrame:
    """METERS; a NaN is a silent meter."""
    rows = pl.concat(
        pl.DataFrame(
            {"hour_start": [START + timedelta(hours=at) for at in range(len(values))], "meter_id": name,
             "point": POINTS[name], "energy_kwh": values}
        )
        for name, values in readings.items()
    )  # fmt: skip
    full = rows.with_columns(
        pl.col("energy_kwh").fill_nan(None), pl.lit("s").alias("site_id"), pl.lit("it").alias("serves"),
        pl.lit(1.0).alias("class_pct"), pl.lit(0.0).alias("noise_kwh"),
        pl.when(pl.col("point") == "utility").then(1.0).alias("direction"),
    )  # fmt: skip
    return meter_errors(full).select(list(METERS)).cast(METERS)


def curves() -> dict[str, StageLoss]:
    """Curves of the stages, fitted on the same meters over ten days."""
    earlier = read(10)
    ends = {"transformer": ("u", "t"), "ups": ("ui", "uo"), "pdu": ("uo", "p1")}
    before = {part: earlier[one] for part, (one, _) in ends.items()}
    behind = {part: earlier[other] for part, (_, other) in ends.items()}
    return fitted_stages(before, behind | {"pdu": earlier["p1"] + earlier["p2"]})


def check(
    readings: dict[str, Floats], *, fitted: bool = True, nodes: bool = True, hours: slice = DAY
) -> Checks:
    meters = frame({name: values[hours] for name, values in readings.items()})
    it = truth()
    load = (it["p1"] + it["p2"])[hours]
    sums = [START + timedelta(hours=at) for at in range(len(load))]
    sensed = pl.DataFrame(
        {"site_id": "s", "hour_start": sums, "energy_kwh": load * 1.02, "sigma_kwh": load * 0.03}
    ).cast(NODE_HOURS)
    sums = usual_loads(stage_sums(meters), sensed)
    parts = [modelled_stages(sums, {"s": curves()})] if fitted else []
    parts.append(default_stages(sums, sensed, STAGES))
    return check_meters(sensed, meters, sensed if nodes else sensed.clear(), modelled_hours(parts))


def verdicts(found: Checks, verdict: str) -> set[str]:
    rows = found.rows.filter((pl.col("check_period") == "day") & (pl.col("meter_verdict") == verdict))
    return set(rows["meter_id"])


def wrong(meter: str, fault: str) -> dict[str, Floats]:
    readings = read()
    own = readings[meter]
    if fault == "stuck":
        own[DAY] = own[23]
    elif fault == "late":
        own[DAY] = read()[meter][23:47]
    else:
        own[DAY] *= float(fault)
    return readings


def test_a_day_of_a_range_is_reconciled_as_in_a_night_of_its_own() -> None:
    readings = read()
    for values in readings.values():
        values[DAY] *= 3.0
    alone, both = (check(readings, fitted=False, hours=hours) for hours in (slice(0, 24), slice(0, 48)))
    first = both.rows.filter(pl.col("date") == START.date())
    assert both.rows.height > first.height
    assert_frame_equal(first, alone.rows)


@pytest.mark.parametrize("fitted", [True, False])
def test_a_clean_site_closes(fitted: bool) -> None:
    found = check(read(), fitted=fitted)
    assert found.days == ()
    assert set(found.hours["state"]) == {"closed"}
    assert not verdicts(found, "culprit") | verdicts(found, "candidate")
    assert {"u", "t", "ui", "uo", "p1"} <= verdicts(found, "agrees")


@pytest.mark.parametrize("meter", ["t", "ui", "uo"])
@pytest.mark.parametrize("fault", ["1.05", "0.95", "1.2", "2", "0.5", "stuck", "late"])
def test_a_meter_between_two_balances_is_named(meter: str, fault: str) -> None:
    found = check(wrong(meter, fault))
    assert [site for site, _, _ in found.days] == ["s"]
    assert verdicts(found, "culprit") == {meter}
    assert f"likeliest {meter} " in found.days[0][2]
    assert set(found.hours["state"]) <= {"violated", "closed"} and "violated" in set(found.hours["state"])


@pytest.mark.parametrize("fault", ["1.05", "0.95", "2", "0.5", "stuck", "late"])
@pytest.mark.parametrize("meter", ["u", "p1"])
def test_any_meter_is_at_least_a_candidate(meter: str, fault: str) -> None:
    found = check(wrong(meter, fault))
    assert found.days
    assert meter in verdicts(found, "culprit") | verdicts(found, "candidate")


@pytest.mark.parametrize(("one", "other"), [("ui", "uo"), ("t", "ui")])
def test_swapped_neighbours_are_named_together(one: str, other: str) -> None:
    readings = read()
    readings[one][DAY], readings[other][DAY] = read()[other][DAY], read()[one][DAY]
    found = check(readings)
    assert found.days
    assert {one, other} <= verdicts(found, "culprit") | verdicts(found, "candidate")


def test_what_the_others_say_is_told() -> None:
    text = check(wrong("ui", "2")).days[0][2]
    told = float(text.split("kWh by the others")[0].split(", ")[-1])
    assert told == pytest.approx(read()["ui"][DAY].sum(), rel=0.01)


def test_without_curves_a_small_fault_hides_in_the_range_of_the_class_and_a_large_one_does_not() -> None:
    assert check(wrong("uo", "0.98"), fitted=False).days == ()
    assert check(wrong("uo", "1.2"), fitted=False).days


def test_one_bad_hour_does_not_condemn_the_others() -> None:
    readings = read()
    readings["ui"][30] *= 1.3
    found = check(readings)
    violated = found.hours.filter(pl.col("state") == "violated")
    assert violated["hour_start"].to_list() == [START + timedelta(hours=6)]
    assert found.hours.filter(pl.col("state") == "closed").height == 23


def test_a_silent_feed_leaves_the_other_balances_checked() -> None:
    readings = read()
    readings["p2"][DAY] = np.nan
    assert set(check(readings, nodes=False).hours["state"]) == {"closed"}
    assert verdicts(check(readings, nodes=False), "silent") == {"p2"}
    readings["ui"][DAY] *= 1.2
    assert check(readings, nodes=False).days


def test_what_nothing_checks_says_so_and_names_the_meter_that_would() -> None:
    alone = {name: values for name, values in read().items() if name in ("u", "p1", "p2")}
    found = check(alone, fitted=False)
    assert set(found.hours["state"]) == {"unverified"}
    assert set(found.hours["check_detail"]) == {"nothing checks utility: a meter of transformer_out would"}
    assert "u" in verdicts(found, "unchecked")
    less = {name: values for name, values in read().items() if name not in ("t", "ho")}
    assert set(check(less, fitted=False).hours["check_detail"]) == {
        "nothing checks utility: a meter of management or of transformer_out would"
    }


def test_an_unmeasured_flow_below_zero_is_a_violation() -> None:
    """Utility half, no meter of cooling, and PDU: what is left for cooling is less than nothing."""
    less = {name: values for name, values in wrong("u", "0.5").items() if name in ("u", "p1", "p2", "ho")}
    found = check(less, fitted=False)
    assert found.days and "model:cooling" in found.days[0][2] and "below zero" in found.days[0][2]


def test_reconciled_figures_fulfil_the_balances() -> None:
    rows: dict[str, dict[str, Any]] = {
        row["meter_id"]: row
        for row in check(read(), fitted=False).rows.filter(pl.col("check_period") == "day").to_dicts()
    }
    found = {name: row["reconciled_kwh"] for name, row in rows.items()}
    scale = found["u"]
    assert found["u"] - found["loss:transformer"] == pytest.approx(found["t"], abs=1e-3 * scale)
    assert found["ui"] - found["loss:ups"] == pytest.approx(found["uo"], abs=1e-3 * scale)
    assert found["uo"] - found["loss:pdu"] == pytest.approx(found["p1"] + found["p2"], abs=1e-3 * scale)
    measured = {name: row["metered_kwh"] for name, row in rows.items()}
    assert abs(measured["u"] - measured["loss:transformer"] - measured["t"]) > 2e-3 * scale


def test_a_curve_is_not_fitted_on_a_meter_that_was_always_wrong() -> None:
    true = truth(10)
    fine = fitted_stages(dict.fromkeys(STAGES, true["u"]), dict.fromkeys(STAGES, true["t"]))
    assert set(fine) == set(STAGES)
    doubled = fitted_stages(dict.fromkeys(STAGES, 2 * true["u"]), dict.fromkeys(STAGES, true["t"]))
    halved = fitted_stages(dict.fromkeys(STAGES, 0.5 * true["u"]), dict.fromkeys(STAGES, true["t"]))
    assert doubled == halved == {}


def test_a_day_of_a_wrong_meter_does_not_move_the_curve() -> None:
    true = truth(10)
    wrong_in = true["ui"].copy()
    wrong_in[48:72] *= 1.05
    clean, mixed = fit_stage_loss(true["ui"], true["uo"]), fit_stage_loss(wrong_in, true["uo"])
    assert clean is not None and mixed is not None
    load = np.array([60.0, 75.0, 90.0])
    assert mixed.from_output(load) == pytest.approx(clean.from_output(load), rel=0.01)
    assert mixed.hours == 9 * 24
