"""What a challenger must show beside its overall error: scopes, monotone load, coverage, drift; and what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lepton_etl.models.drift import error_drift, input_drift, stability_index
from lepton_etl.models.features import FEATURES
from lepton_etl.models.footprint import joules_per_million, measured_cost, package_energy_j
from lepton_etl.models.metrics import Values, coverage, error_card, records
from lepton_etl.models.promotion import response_drops, worse_beyond_chance, worse_scopes


def test_the_error_card_has_every_bin_once_and_every_hour_in_each_dimension() -> None:
    hours = pd.DataFrame(
        {
            "hardware_class": ["a", "a", "b", None], "cluster_id": ["c1"] * 4,
            "gpu_utilisation_ratio": [0.0, 0.95, 1.0, np.nan], "device_temp_c": [34.9, 35.0, 52.0, np.nan],
        }
    )  # fmt: skip
    card = error_card(hours, np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 3.5, 4.0]))
    rows: dict[str, dict[str, int]] = {}
    for one in card:
        rows.setdefault(one.dimension, {})[one.bin] = one.errors.rows
    assert rows == {
        "hardware_class": {"a": 2, "b": 1, "unknown": 1},
        "cluster_id": {"c1": 4},
        "gpu_utilisation_ratio": {"0..0.1": 1, "0.9..1": 2, "unknown": 1},
        "device_temp_c": {"30..35": 1, "35..40": 1, "50..55": 1, "unknown": 1},
    }
    of_b = next(one for one in records(card) if one["bin"] == "b")
    assert of_b["wape_ratio"] == pytest.approx(0.5 / 3)


def test_coverage_far_off_misses_and_by_the_chance_of_days_does_not() -> None:
    def of(shares: list[float]) -> bool:
        """Days of 100 hours, the share of each inside."""
        residual = np.concatenate(
            [np.repeat([0.0, 1.0], [round(100 * s), 100 - round(100 * s)]) for s in shares]
        )
        found = coverage(residual, np.zeros(len(residual)), 0.5, np.repeat(np.arange(len(shares)), 100))
        assert found is not None and found.inside_ratio == pytest.approx(np.mean(shares))
        return found.misses()

    assert of([0.7, 0.76] * 10) and of([1.0, 0.99] * 10)
    assert not of([0.82, 0.84] * 10) and not of([0.95, 0.96] * 10)
    # One bad day of twenty, and nine days whatever they say, are no verdict.
    assert not of([0.9] * 19 + [0.0]) and not of([0.5] * 9)
    assert coverage(np.zeros(0), np.zeros(0), 1.0, []) is None


def test_worse_on_every_day_is_beyond_chance_and_on_one_of_ten_is_not() -> None:
    hours = pd.DataFrame({"date": np.repeat(np.arange(10), 24)})
    measured, champion = np.ones(240), np.full(240, 1.1)
    one_day = np.where(hours["date"] == 3, 1.5, 1.1)
    assert worse_beyond_chance(hours, measured, np.full(240, 1.12), champion)
    assert not worse_beyond_chance(hours, measured, one_day, champion)
    assert ((one_day - 1) ** 2).mean() > 1.5 * ((champion - 1) ** 2).mean()
    # Of a single day any difference counts.
    assert worse_beyond_chance(hours[:24], measured[:24], np.full(24, 1.12), champion[:24])
    assert not worse_beyond_chance(hours, measured, champion, champion)


def _loads(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(11)
    return pd.DataFrame(
        {"gpu_utilisation_ratio": rng.uniform(0, 1, count), "other": rng.uniform(0, 1, count)}
    )


def test_a_response_that_falls_with_load_is_found_where_it_falls() -> None:
    rows = _loads(500)
    columns = ["gpu_utilisation_ratio", "other"]

    def rises(frame: pd.DataFrame) -> Values:
        return frame["gpu_utilisation_ratio"].to_numpy() + 1.0

    def dips(frame: pd.DataFrame) -> Values:
        return rises(frame) - 0.5 * (frame["gpu_utilisation_ratio"].to_numpy() > 0.75)

    assert response_drops(rises, rows, columns) == []
    (fall,) = response_drops(dips, rows, columns)
    assert fall.load_from == pytest.approx(0.7) and fall.load_to == pytest.approx(0.8)
    assert fall.drop_ratio == pytest.approx(0.4 / np.mean([rises(rows)]), rel=0.2)


def test_loads_that_no_row_has_seen_are_not_asked_for() -> None:
    rows = _loads(500)
    rows["gpu_utilisation_ratio"] *= 0.5

    def dips_above(frame: pd.DataFrame) -> Values:
        return 1.0 - 1.0 * (frame["gpu_utilisation_ratio"].to_numpy() > 0.65)

    assert response_drops(dips_above, rows, list(rows.columns)) == []


def test_one_class_may_not_pay_for_the_mean_of_all() -> None:
    rng = np.random.default_rng(11)
    hours = pd.DataFrame({"hardware_class": ["a"] * 100 + ["b"] * 100, "cluster_id": ["c"] * 200})
    hours["date"] = np.tile(np.repeat(np.arange(10), 10), 2)
    measured = np.full(200, 1.0) + rng.normal(0, 0.05, 200)
    champion = measured + rng.normal(0, 0.10, 200)
    challenger = measured + np.concatenate([rng.normal(0, 0.01, 100), rng.normal(0, 0.16, 100)])
    found = worse_scopes(hours, measured, challenger, champion, tolerance_ratio=0.05, min_rows=24)
    assert len(found) == 1 and found[0].startswith("hardware_class b: CV(RMSE)")
    assert not worse_scopes(hours, measured, challenger, champion, tolerance_ratio=0.05, min_rows=101)


def test_drift_of_an_input_and_of_the_error() -> None:
    rng = np.random.default_rng(11)
    before = pd.DataFrame({f.name: rng.uniform(0, 1, 1000) for f in FEATURES["gpu"]})
    after = before.sample(frac=1, random_state=1)
    assert input_drift(before, after, "gpu") == []
    after = after.assign(device_temp_c=after["device_temp_c"] + 0.5)
    (found,) = input_drift(before, after, "gpu")
    assert found.what == "device_temp_c" and found.value > 0.25
    gone = after.assign(device_temp_c=before["device_temp_c"], gpu_utilisation_ratio=np.nan)
    assert [one.what for one in input_drift(before, gone, "gpu")] == ["gpu_utilisation_ratio"]
    assert stability_index(np.ones(99), np.ones(500)) is None
    measured = rng.uniform(1, 2, 500)
    off = measured + rng.normal(0, 0.3, 500)
    assert error_drift(measured, off, 0.19) == [] and error_drift(measured, off, None) == []
    assert "times" in str(error_drift(measured, off, 0.05)[0])


def test_energy_by_rapl_where_readable_else_by_cpu_seconds(tmp_path: Path) -> None:
    assert package_energy_j(tmp_path) is None
    for name, value in (("intel-rapl:0", 2_000_000), ("intel-rapl:1", 500_000), ("intel-rapl:0:0", 900_000)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
    assert package_energy_j(tmp_path) == 2.5
    with measured_cost(core_power_w=10.0) as spent:
        sum(i * i for i in range(200_000))
    assert spent.cpu_s > 0 and (spent.basis == "rapl" or spent.energy_j == pytest.approx(10 * spent.cpu_s))


def test_a_million_predictions_are_scaled_from_what_was_run() -> None:
    asked = []

    def predict(rows: pd.DataFrame) -> Values:
        asked.append(len(rows))
        return np.sqrt(np.arange(len(rows), dtype=np.float64))

    spent = joules_per_million(predict, pd.DataFrame({"x": np.zeros(300)}))
    assert asked == [20_100] and spent.energy_j >= 0
