"""States of generated devices: found, calibrated, held, and unknown where nothing is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.diagnosis.device_states import EVIDENCE, STATES, probabilities, state_rows, with_hysteresis
from lepton_etl.schema.common import PERFORMANCE_STATES
from lepton_etl.schema.diagnosis import STATE
from lepton_etl.schema.types import arrow_schema
from tests.unit.diagnosis.generated import PER_DAY, device_days

HELD_OUT = range(100, 112)
CHANCES = [f"{state}_probability_ratio" for state in STATES]


def judged(state: str, seed: int) -> tuple[pl.DataFrame, np.ndarray]:
    history, day, label = device_days(seed, state)
    return state_rows(day, history), label


@pytest.mark.parametrize("state", PERFORMANCE_STATES)
def test_most_intervals_of_a_state_are_told(state: str) -> None:
    right, count = 0, 0
    for seed in HELD_OUT:
        rows, label = judged(state, seed)
        label[: PER_DAY // 2 + 12] &= state == "normal"
        told = (rows["performance_state"] == state).to_numpy()
        right, count = right + int(told[label].sum()), count + int(label.sum())
    assert count > 500
    assert right / count > 0.75


def test_probabilities_mean_what_they_say() -> None:
    chance, hit = [], []
    for state in PERFORMANCE_STATES:
        for seed in HELD_OUT:
            rows, label = judged(state, seed)
            truth = np.where(label, PERFORMANCE_STATES.index(state), 0)
            values = rows.select(CHANCES).to_numpy()
            chance.append(values.max(axis=1))
            hit.append(values.argmax(axis=1) == truth)
    told, right = np.concatenate(chance), np.concatenate(hit)
    error = 0.0
    for low in np.arange(0.0, 1.0, 0.1):
        inside = (told >= low) & (told < low + 0.1 + 1e-9)
        if inside.any():
            error += inside.mean() * abs(told[inside].mean() - right[inside].mean())
    assert error < 0.08


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_probabilities_sum_to_one_whatever_is_known(seed: int) -> None:
    rng = np.random.default_rng(seed)
    figures = {
        name: np.where(rng.uniform(size=(3, 8)) < 0.5, np.nan, rng.normal(0, 2, (3, 8))) for name in EVIDENCE
    }
    chances = probabilities(figures)
    assert (chances >= 0).all()
    np.testing.assert_allclose(chances.sum(axis=0), 1.0)


def test_what_is_unknown_widens_and_is_named() -> None:
    history, day, label = device_days(200, "power_capped")
    full = state_rows(day, history)
    without = [
        pl.lit(None, pl.Float64).alias(name) for name in ("clock_hz", "device_temp_c", "power_limit_w")
    ]
    blind = state_rows(day.with_columns(without), history)
    late = np.flatnonzero(label)[12:]
    sure = full["power_capped_probability_ratio"].to_numpy()[late].mean()
    unsure = blind["power_capped_probability_ratio"].to_numpy()[late].mean()
    assert unsure < sure
    assert set(blind["unknown_inputs"][int(late[0])]) >= {"clock", "heat_margin_k", "of_cap"}


def test_of_nothing_known_there_is_no_state() -> None:
    history, day, _ = device_days(201, "normal")
    nothing = [
        pl.lit(None, pl.Float64).alias(name)
        for name in (
            "power_mean_w", "power_limit_w", "gpu_utilisation_ratio", "memory_utilisation_ratio", "clock_hz",
            "device_temp_c",
        )
    ]  # fmt: skip
    rows = state_rows(day.with_columns(nothing), history)
    assert rows["performance_state"].null_count() == rows.height
    assert rows[CHANCES[0]].null_count() == rows.height
    assert rows["adjustment"].unique().to_list() == ["none"]
    assert set(rows["unknown_inputs"][0]) == set(EVIDENCE)


def test_rows_have_the_table_s_columns_and_a_proposal_with_its_reason() -> None:
    history, day, label = device_days(202, "thermally_throttled")
    rows = state_rows(day, history)
    assert set(rows.columns) == set(STATE.columns)
    rows.select(STATE.columns).to_arrow().cast(arrow_schema(STATE))
    last = rows.row(int(np.flatnonzero(label)[-1]), named=True)
    assert last["adjustment"] == "fan_or_inlet"
    assert "slow-down" in last["adjustment_reason"]
    assert any("heat_margin" in one for one in last["evidence"])


def test_what_a_board_says_of_its_slow_down_goes_before_the_common_limit() -> None:
    history, day, label = device_days(202, "thermally_throttled")
    row = int(np.flatnonzero(label)[-1])

    def heat(day: pl.DataFrame) -> tuple[str, float]:
        last = state_rows(day, history).row(row, named=True)
        return last["performance_state"], last["thermally_throttled_probability_ratio"]

    assert heat(day)[0] == "thermally_throttled"
    # 20 K and more below where it slows down: heat is not why its clock is down. Said once, it holds all day.
    cool = day.with_columns(pl.when(pl.int_range(pl.len()) == 0).then(115.0).alias("slowdown_temp_c"))
    assert heat(cool)[0] != "thermally_throttled"
    near = cool.with_columns(pl.lit(0.5).alias("slowdown_margin_k"))
    assert heat(near)[0] == "thermally_throttled" and heat(near)[1] > 0.6
    assert heat(cool.with_columns(pl.lit(25.0).alias("slowdown_margin_k")))[0] != "thermally_throttled"


def test_a_state_does_not_flap() -> None:
    rng = np.random.default_rng(1)
    near = 0.5 + rng.uniform(-0.08, 0.08, 200)
    chances = np.zeros((len(STATES), 1, 200))
    chances[0, 0], chances[1, 0] = near, 1 - near
    assert len(np.unique(with_hysteresis(chances))) == 1
    chances[0, 0, 100:], chances[1, 0, 100:] = 0.1, 0.9
    assert np.diff(with_hysteresis(chances)[0]).tolist().count(1) == 1


def test_devices_are_judged_alone() -> None:
    first, second = device_days(203, "power_capped"), device_days(204, "normal")
    both = state_rows(pl.concat([first[1], second[1]]), pl.concat([first[0], second[0]]))
    alone = state_rows(first[1], first[0])
    assert both.filter(pl.col("node_id") == "power_capped-203").equals(alone)


def test_without_a_power_limit_no_cap_is_claimed() -> None:
    history, day, _ = device_days(100, "power_capped")
    assert "power_capped" in set(state_rows(day, history)["performance_state"])
    none = pl.lit(None, pl.Float64).alias("power_limit_w")
    blind = state_rows(day.with_columns(none), history.with_columns(none))
    assert "power_capped" not in set(blind["performance_state"])
    assert blind["power_capped_probability_ratio"].max() < 0.05


@pytest.mark.parametrize("missing", ["clock_hz", "memory_utilisation_ratio", "of a node"])
def test_without_clock_and_activity_of_memory_none_is_called_memory_bound(missing: str) -> None:
    history, day, _ = device_days(100, "memory_bound")
    assert "lower_clock" in set(state_rows(day, history)["adjustment"])
    gone = (
        pl.lit("node").alias("device_id")
        if missing == "of a node"
        else pl.lit(None, pl.Float64).alias(missing)
    )
    blind = state_rows(day.with_columns(gone), history.with_columns(gone))
    assert "memory_bound" not in set(blind["performance_state"])
    assert "lower_clock" not in set(blind["adjustment"])


@pytest.mark.parametrize(
    ("rated_w", "limit_before", "raised"),
    [(1.0, 1.0, False), (1.0, 1.3, True), (1.3, 1.0, True), (None, 1.0, False)],
)
def test_a_cap_is_raised_only_below_what_the_device_may_draw(
    rated_w: float | None, limit_before: float, raised: bool
) -> None:
    history, day, _ = device_days(100, "power_capped")
    limit_w = float(day["power_limit_w"].min())  # type: ignore[arg-type]
    day = day.with_columns(
        pl.lit(limit_w).alias("power_limit_w"),
        pl.lit(None if rated_w is None else rated_w * limit_w, pl.Float64).alias("rated_power_w"),
    )
    rows = state_rows(day, history.with_columns(pl.lit(limit_before * limit_w).alias("power_limit_w")))
    assert "power_capped" in set(rows["performance_state"])
    assert ("raise_cap" in set(rows["adjustment"])) is raised
    assert any("nothing to raise" in reason for reason in rows["adjustment_reason"]) is not raised
