"""Jobs that wait longer for cleaner hours, and those that are left as they are with their reason."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from lepton_etl.config.sections import ShiftSettings
from lepton_etl.recommend.job_shift import HORIZON_H, Queue, shift_advice

AT = datetime(2025, 6, 4, tzinfo=UTC)
SETTINGS = ShiftSettings(partitions=("batch",), max_delay_h=12)


def queue(**changed: Any) -> Queue:
    """A job of two hours and 1 kW, and hours of which those from the sixth to the tenth are clean."""
    pending = {
        "site_id": "s", "cluster_id": "c", "job_id": "1", "user_name": "ada", "partition": "batch", "gpu_count": 2,
        "cpu_count": 8, "predicted_power_w": 1000.0, "predicted_power_lower_w": 900.0,
        "predicted_power_upper_w": 1100.0,
    }  # fmt: skip
    hours = [
        {"hour_start": AT + timedelta(hours=h), "carbon_intensity_gco2e_per_kwh": 100.0 if 6 <= h < 10 else 400.0,
         "intensity_lower_gco2e_per_kwh": 90.0 if 6 <= h < 10 else 380.0,
         "intensity_upper_gco2e_per_kwh": 110.0 if 6 <= h < 10 else 420.0, "energy_price": None}
        for h in range(HORIZON_H)
    ]  # fmt: skip
    known: dict[str, Any] = {
        "pending": pl.DataFrame([pending | changed.pop("job", {})]),
        "ended": pl.DataFrame({"user_name": ["ada"] * 6, "partition": ["batch"] * 6, "hours": [2.0] * 6}),
        "room": pl.DataFrame([{"cluster_id": "c", "unit": "gpu", "free": 4.0}]),
        "hours": pl.DataFrame(hours, infer_schema_length=None),
    }
    return Queue(site_id="s", zone_id="ZZ", at=AT, overhead_ratio=0.2, **(known | changed))


def test_a_job_waits_for_the_clean_hours_and_promises_carbon_by_location() -> None:
    (advice,), notes, _ = shift_advice(queue(), SETTINGS)
    assert notes == () and advice.subject.job_id == "1"
    start = datetime.fromisoformat(advice.parameters["start_time"])
    assert AT + timedelta(hours=6) <= start <= AT + timedelta(hours=8)
    # 2 h x 1 kW x 1.2 of facility energy, 300 g a kWh less.
    assert advice.saving_kgco2e is not None and advice.carbon_method == "location"
    assert advice.saving_kgco2e.value == pytest.approx(2 * 1.2 * 0.3)
    assert advice.saving_kgco2e.lower < advice.saving_kgco2e.value < advice.saving_kgco2e.upper
    assert advice.saving_kwh is not None and advice.saving_kwh.value == pytest.approx(0.0)
    assert advice.saving_cost is None


def test_no_room_in_the_clean_hours_means_no_move_there() -> None:
    none = queue(room=pl.DataFrame([{"cluster_id": "c", "unit": "gpu", "free": 1.0}]))
    found, notes, _ = shift_advice(none, SETTINGS)
    assert found == [] and "job 1 is left as it is" in notes[0]


@pytest.mark.parametrize(("changed", "why"), [
    ({"ended": pl.DataFrame({"user_name": ["ada"], "partition": ["batch"], "hours": [2.0]})}, "tell its length"),
    ({"job": {"predicted_power_w": None}}, "its power"),
    ({"job": {"gpu_count": None, "cpu_count": None}}, "its power"),
])  # fmt: skip
def test_a_job_of_which_too_little_is_known_is_left_with_the_reason(
    changed: dict[str, Any], why: str
) -> None:
    found, notes, _ = shift_advice(queue(**changed), SETTINGS)
    assert found == [] and why in notes[0]


def test_unknown_intensity_with_objective_carbon_is_said_and_not_planned() -> None:
    blank = queue().hours.with_columns(pl.lit(None, pl.Float64).alias("carbon_intensity_gco2e_per_kwh"))
    found, notes, _ = shift_advice(queue(hours=blank), SETTINGS)
    assert found == [] and any("unknown" in note or "intensity" in note for note in notes)


def test_a_job_that_would_find_no_room_at_once_is_left_with_the_reason() -> None:
    """Of 4 GPUs the first holds 2 to hour 10 and the second 3 from then to 30: the third has no 20 hours of 2."""
    users = {"ada": (2, 10.0), "bob": (3, 20.0), "cyd": (2, 20.0)}
    rows = queue().pending.to_dicts()[0]
    crowded = queue(
        pending=pl.DataFrame(
            [
                rows | {"job_id": name, "user_name": name, "gpu_count": gpus}
                for name, (gpus, _) in users.items()
            ]
        ),
        ended=pl.DataFrame(
            [{"user_name": name, "partition": "batch", "hours": hours} for name, (_, hours) in users.items()]
            * 5
        ),
    )
    advice, notes, _ = shift_advice(crowded, SETTINGS.model_copy(update={"max_delay_h": 24}))
    assert "cyd" not in {one.subject.job_id for one in advice}
    assert any(note.startswith("job cyd is left as it is: without a plan it finds no room") for note in notes)
