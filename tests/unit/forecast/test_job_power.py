"""Power of a run before it starts: from earlier-ended runs alone, by the narrowest group that has any."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from lepton_etl.forecast.job_power import predict_jobs

START = datetime(2025, 6, 1, tzinfo=UTC)


def runs(count: int, seed: int = 1) -> pl.DataFrame:
    """Users with habits of their own on two partitions; power scales with GPUs, and varies by 10 % a run."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 8, count)
    gpus = 2 ** rng.integers(0, 4, count)
    submit = [START + timedelta(hours=float(h)) for h in np.sort(rng.uniform(0, 60 * 24, count))]
    length = rng.uniform(0.5, 12, count)
    watts = (150 + 50 * user) * gpus * rng.lognormal(0, 0.1, count)
    return pl.DataFrame(
        {
            "user_name": [f"u{u}" for u in user], "partition": np.where(user < 4, "a", "b"), "gpu_count": gpus,
            "cpu_count": gpus * 8, "memory_byte": gpus * 6.4e10, "submit_time": submit,
            "end_time": [s + timedelta(hours=float(h)) for s, h in zip(submit, length, strict=True)],
            "mean_power_w": watts,
        }
    )  # fmt: skip


def test_forward_in_time_it_beats_the_mean_and_its_interval_holds() -> None:
    every = runs(2000)
    at = START + timedelta(days=45)
    later = every.filter(pl.col("submit_time") >= at)
    told = predict_jobs(later, every, at)
    truth, ours = told["mean_power_w"].to_numpy(), told["predicted_power_w"].to_numpy()
    past = every.filter(pl.col("end_time") <= at)
    per_gpu = float((past["mean_power_w"] / past["gpu_count"]).mean())  # type: ignore[arg-type]
    plain = np.abs(per_gpu * later["gpu_count"].to_numpy() - truth).sum() / truth.sum()
    assert np.abs(ours - truth).sum() / truth.sum() < 0.5 * plain
    inside = (truth >= told["predicted_power_lower_w"].to_numpy()) & (
        truth <= told["predicted_power_upper_w"].to_numpy()
    )
    assert 0.85 < inside.mean() < 0.95


def test_a_run_that_has_not_ended_says_nothing() -> None:
    every = runs(600)
    at = START + timedelta(days=30)
    asked = every.filter(pl.col("submit_time") >= at)
    changed = every.with_columns(
        pl.when(pl.col("end_time") > at).then(1.0).otherwise("mean_power_w").alias("mean_power_w")
    )
    columns = ["predicted_power_w", "predicted_power_lower_w", "prediction_basis"]
    assert (
        predict_jobs(asked, every, at)
        .select(columns)
        .equals(predict_jobs(asked, changed, at).select(columns))
    )


@pytest.mark.parametrize(
    ("user", "partition", "cpus", "gpus", "basis"),
    [
        ("u1", "a", 16, 2, "user"),
        ("new", "a", 16, 2, "partition"),
        (None, "a", 16, 2, "partition"),
        ("new", "elsewhere", 16, 2, "hardware"),
        ("u1", "a", 16, 0, "none"),
    ],
)
def test_the_basis_is_the_narrowest_group_that_has_runs(
    user: str | None, partition: str, cpus: int, gpus: int, basis: str
) -> None:
    every = runs(600)
    asked = pl.DataFrame(
        {
            "user_name": [user], "partition": [partition], "gpu_count": [gpus], "cpu_count": [cpus],
            "memory_byte": [1e9], "submit_time": [START + timedelta(days=50)],
        },
        schema_overrides={"user_name": pl.String},
    )  # fmt: skip
    row = predict_jobs(asked, every, START + timedelta(days=50)).row(0, named=True)
    assert row["prediction_basis"] == basis
    assert (row["predicted_power_w"] is None) == (basis == "none")
    if basis != "none":
        assert row["predicted_power_lower_w"] < row["predicted_power_w"] < row["predicted_power_upper_w"]


def test_without_any_history_all_is_unknown() -> None:
    every = runs(10)
    told = predict_jobs(every, every, START - timedelta(days=1))
    assert told["predicted_power_w"].null_count() == 10
    assert told["prediction_basis"].unique().to_list() == ["none"]


def test_rows_keep_their_order() -> None:
    every = runs(200)
    at = START + timedelta(days=40)
    assert predict_jobs(every, every, at)["submit_time"].to_list() == every["submit_time"].to_list()
