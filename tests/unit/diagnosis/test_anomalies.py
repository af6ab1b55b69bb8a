"""Each kind of fault is found in a made rack, quiet devices are left alone, and the unknown is no anomaly."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import inject
from lepton_etl.diagnosis.anomalies import (
    LASTING_H,
    DeviceHours,
    Span,
    anomaly_rows,
    changed,
    device_spans,
    lasting,
    normal,
    scale_score,
    score,
    spans,
    step_score,
    weighted_median,
)
from lepton_etl.schema.diagnosis import ANOMALY
from lepton_etl.schema.types import arrow_schema

FIRST = datetime(2025, 3, 3, tzinfo=UTC)
HISTORY = 60 * 24
JUDGED = 25 * 24


def device(number: int, seed: int = 1) -> DeviceHours:
    """A node that works by day and rests by night; the model knows its load, not its noise of 1 %."""
    rng = np.random.default_rng([seed, number])
    hour = np.arange(HISTORY + JUDGED)
    load = np.clip(np.where(hour % 24 < 8, 0.0, rng.uniform(0.2, 1.0, len(hour))), 0, 1)
    expected = 0.3 + 0.7 * load
    measured = expected * rng.normal(1.0, 0.01, len(hour)) * 1.03
    return DeviceHours("s", "c", "r1", f"n{number}", "node", FIRST, measured, expected, load)


def rack() -> list[DeviceHours]:
    return [device(number) for number in range(4)]


def judged(devices: list[DeviceHours], **energy: np.ndarray) -> tuple[list[DeviceHours], list[DeviceHours]]:
    whole = [replace(one, measured_kwh=energy.get(one.node_id, one.measured_kwh)) for one in devices]
    return [one.part(0, HISTORY) for one in whole], [one.part(HISTORY, HISTORY + JUDGED) for one in whole]


def at(day: int, hour: int = 0) -> int:
    return HISTORY + day * 24 + hour


def kinds(rows: object, node: str) -> set[str]:
    frame = rows.filter(rows["node_id"] == node)  # type: ignore[attr-defined]
    return set(frame["anomaly_kind"].to_list())


FAULTS = {
    "stuck": lambda e: inject.stuck(e, at(10, 12)),
    "drift": lambda e: inject.drift(e, at(3)),
    "scale": lambda e: inject.times(e, at(8), 7 * 24, 1.15),
    "step": lambda e: inject.times(e, at(8, 10), 12, 1.2),
    "idle_but_drawing": lambda e: inject.idle_draw(e, at(9), 1.0),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_scores_above_its_bound_on_its_node_alone(kind: str) -> None:
    devices = rack()
    history, hours = judged(devices, n2=FAULTS[kind](devices[2].measured_kwh))
    found, _, _ = score(history, hours)
    highest = [float(np.nanmax(one.by_kind[kind])) for one in found]
    assert highest[2] > 1.2
    assert highest[2] > 1.5 * max(highest[:2] + highest[3:])


def test_the_rack_is_told_from_its_nodes_and_its_excess_is_the_energy_added() -> None:
    devices = rack()
    start = at(5)
    energy = {one.node_id: inject.times(one.measured_kwh, start, 24, 1.08) for one in devices}
    rows = anomaly_rows(*judged(devices, **energy))
    whole = rows.filter(rows["anomaly_kind"] == "rack")
    assert whole.height == 1
    row = whole.row(0, named=True)
    added = sum(float((energy[o.node_id] - o.measured_kwh).sum()) for o in devices)
    assert row["node_id"] is None and row["rack_id"] == "r1"
    assert row["excess_kwh"] == pytest.approx(added, rel=0.2)
    assert not kinds(rows, "n1") & {"scale", "drift"}


def test_rows_have_the_table_s_columns_in_order_of_energy_and_the_same_names_again() -> None:
    devices = rack()
    history, hours = judged(
        devices, n1=FAULTS["scale"](devices[1].measured_kwh), n3=FAULTS["stuck"](devices[3].measured_kwh)
    )
    rows = anomaly_rows(history, hours)
    assert set(rows.columns) == set(ANOMALY.columns)
    rows.select(ANOMALY.columns).to_arrow().cast(arrow_schema(ANOMALY))
    sizes = rows["excess_kwh"].abs().to_list()
    assert sizes == sorted(sizes, reverse=True)
    assert rows.equals(anomaly_rows(history, hours))
    assert kinds(rows, "n1") >= {"scale"} and kinds(rows, "n3") >= {"stuck"}


def test_too_little_history_says_nothing() -> None:
    one = device(0)
    rows = anomaly_rows([one.part(0, 48)], [one.part(48, 96)])
    assert rows.height == 0


def test_unknown_hours_are_not_odd() -> None:
    devices = rack()
    energy = devices[0].measured_kwh.copy()
    energy[at(4) : at(9)] = np.nan
    rows = anomaly_rows(*judged(devices, n0=energy))
    inside = [r for r in rows.iter_rows(named=True) if r["node_id"] == "n0" and r["anomaly_score"] > 2]
    assert not inside


def test_a_level_that_was_idled_at_before_is_normal() -> None:
    one = device(0)
    energy = one.measured_kwh.copy()
    idle = one.load_ratio < 0.1
    late = np.arange(len(energy)) >= HISTORY + 200
    early = (np.arange(len(energy)) > 100) & (np.arange(len(energy)) < 600)
    energy[idle & early] *= 1.5
    back = energy.copy()
    back[idle & late] *= 1.5
    new = energy.copy()
    new[idle & late] *= 1.25
    known, strange = (score(*judged([one], n0=e))[0][0].by_kind["step"] for e in (back, new))
    assert np.nanmax(known[200:]) <= 1 < np.nanmax(strange[200:])
    # After its day the new level is no step: it lasts.
    assert np.nanmax(strange[300:]) <= 1


def test_a_factor_on_all_hours_lasts_and_a_level_of_idle_alone_does_not() -> None:
    one = device(0)
    late = np.arange(HISTORY + JUDGED) >= at(8)
    scaled, idle_alone = one.measured_kwh.copy(), one.measured_kwh.copy()
    scaled[late] *= 0.85
    idle_alone[late & (one.load_ratio < 0.1)] *= 0.85
    after = at(8) + LASTING_H
    assert lasting(replace(one, measured_kwh=scaled))[after] == pytest.approx(-np.log(0.85), abs=0.01)
    assert lasting(replace(one, measured_kwh=idle_alone))[after] < 0.02


def test_what_the_model_always_misses_is_no_change() -> None:
    one = device(0)
    off = replace(one, expected_kwh=one.expected_kwh * np.where(one.load_ratio < 0.1, 3.0, 0.5))
    assert changed(off)[200:] == pytest.approx(changed(one)[200:], nan_ok=True)
    assert lasting(off)[200:] == pytest.approx(lasting(one)[200:], nan_ok=True)


def test_a_change_to_a_known_level_orders_but_does_not_alarm() -> None:
    level, change = np.array([0.5, 2.0, 2.0, np.nan]), np.array([3.0, 0.1, 3.0, np.nan])
    sudden = step_score(level, change)
    assert sudden[[0, 1, 2]].tolist() == [1.0, 2.0, 2.0]
    assert np.isnan(sudden[3])
    assert step_score(level[1:2], change[1:2]).tolist() == [0.1]
    assert scale_score(level, change)[:2].tolist() == pytest.approx([1.5**0.5, 0.2**0.5])


def test_spans_join_and_reach_back_half_a_window() -> None:
    values = np.zeros(60)
    values[[20, 24, 40]] = 2.0
    assert spans("step", values) == [Span("step", 17, 25, 2.0), Span("step", 37, 41, 2.0)]


def test_a_stuck_sensor_is_not_a_step_too() -> None:
    values = np.zeros(60)
    values[20:26] = 3.0
    assert [one.kind for one in device_spans({"step": values, "stuck": values})] == ["stuck"]


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 5)), min_size=1, max_size=30))
@settings(deadline=None)
def test_a_weighted_median_has_half_the_weight_on_each_side(pairs: list[tuple[float, float]]) -> None:
    values, weights = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    middle = weighted_median(values, weights)
    assert weights[values < middle].sum() <= weights.sum() / 2 + 1e-9
    assert weights[values > middle].sum() <= weights.sum() / 2 + 1e-9


def test_the_usual_bias_of_a_device_is_normal() -> None:
    usual = normal(device(0).part(0, HISTORY))
    np.testing.assert_allclose(usual.median, np.log(1.03), atol=0.01)
