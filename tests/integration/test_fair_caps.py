"""Caps of a night under a limit on one tenant's share of them, on tables of GPUs that were logged under two limits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import structlog
import yaml

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.jobs import JOB_NODE, JOB_RUN
from lepton_etl.schema.recommend import RECOMMENDATION, TENANT_BURDEN
from pipelines import recommend
from pipelines.stage import StageContext
from tests.integration.laying import lay

DAY = date(2025, 6, 30)
DAYS = Days(DAY - timedelta(days=1), DAY)
SITE = {"site_id": "s", "cluster_id": "c"}
# The guard of a cap asks for so many other workloads.
USERS = 41
HOURS = 3
TENANTS = ("physics",) * 6 + ("law",) * 2 + ("bio",) * 2


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Each user has a node with one GPU: capped on the first day, at its default limit on the second."""
    made = Lake(tmp_path_factory.mktemp("caps") / "lake")
    boards, held, runs, nodes = [], [], [], []
    for user in range(USERS):
        node = {"node_id": f"n{user:02d}"}
        nodes.append(
            SITE | node | {"hardware_class": "gpu-400", "valid_from": datetime(2025, 1, 1, tzinfo=UTC)}
        )
        for day, limit_w, power_w, clock_hz in (
            (DAYS.start, 300.0, 290 - user / 2, 0.985e9), (DAYS.end, 400.0, 370.0 - user, 1e9),
        ):  # fmt: skip
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            run = SITE | {
                "job_id": f"{user}-{day}", "submit_time": start, "restart": 0, "date": day,
                "tenant_id": TENANTS[user % len(TENANTS)], "outcome": "completed",
            }  # fmt: skip
            runs.append(run | {"user_name": f"u{user}", "partition": "gpu", "start_time": start})
            held.append(
                run | node | {"from_time": start, "to_time": start + timedelta(hours=HOURS), "device_ids": ["gpu0"],
                              "gpu_count": 1, "attribution_basis": "devices"}
            )  # fmt: skip
            boards += [
                SITE | node | {
                    "date": day, "device_id": "gpu0", "interval_start": start + timedelta(minutes=5 * number),
                    "interval_s": 300, "observed_s": 300.0, "energy_kwh": power_w / 12_000, "power_mean_w": power_w,
                    "power_limit_w": limit_w, "clock_hz": clock_hz, "gpu_utilisation_ratio": 1.0, "flags": [],
                    "counts_in_total": False, "multiplicity": 1,
                } for number in range(12 * HOURS)
            ]  # fmt: skip
    lay(made, NODE, nodes)
    for table, rows in ((INTERVAL, boards), (JOB_NODE, held), (JOB_RUN, runs)):
        lay(made, table, rows, DAYS)
    return made


def caps(lake: Lake, folder: Path, limit: float | None) -> tuple[pl.DataFrame, pl.DataFrame, list[str]]:
    """Recommended caps, burdens of tenants by caps, and what the stage says of them."""
    settings: dict[str, Any] = {
        "site": {"site_id": "s"}, "lake": {"root": str(lake.root)}, "fleet": {"inventory": "inventory.csv"},
        "optimize": {"history_days": 7, "tenant_share_max_ratio": limit},
        "sources": [{"name": "bmc", "format": "ipmitool", "path": "*.txt"}],
    }  # fmt: skip
    (folder / "site.yaml").write_text(yaml.safe_dump(settings))
    asked = load(folder / "site.yaml")
    done = recommend.run(StageContext(lake, asked, Days.of(DAY), "run", structlog.get_logger()))
    burden = lake.read(TENANT_BURDEN, Days.of(DAY)).filter(burden_kind="cap")
    proposed = lake.read(RECOMMENDATION, Days.of(DAY)).filter(
        lever="power_cap", recommendation_state="proposed"
    )
    return proposed, burden, [note for note in done.notes if note.startswith("cap: no tenant bears")]


def test_caps_of_a_tenant_are_left_out_to_its_share_and_the_price_stands_in_the_table(
    lake: Lake, tmp_path: Path
) -> None:
    every, free, said = caps(lake, tmp_path, None)
    shares = dict(free.select("tenant_id", "burden_share_ratio").iter_rows())
    assert every.height >= 30 and said == []
    # Users are spread over tenants as the GPU-hours are.
    assert shares["physics"] == pytest.approx(0.6, abs=0.05)
    assert free["forgone_saving_kwh"].null_count() == free.height
    kept, limited, said = caps(lake, tmp_path, 0.4)
    shares = dict(limited.select("tenant_id", "burden_share_ratio").iter_rows())
    assert max(shares.values()) <= 0.4 + 1e-9 and min(shares.values()) > 0.2
    assert limited["share_max_ratio"].unique().to_list() == [0.4]
    # The price is what the caps that are left out would have saved, and no less would do.
    saving = pl.col("expected_saving_kwh").sum()
    lost = every.select(saving).item() - kept.select(saving).item()
    assert lost > 0
    assert limited["forgone_saving_kwh"].unique().to_list() == [pytest.approx(lost)]
    [note] = said
    assert f"{every.height - kept.height} of {every.height} proposals are left out, {lost:,.2f} kWh" in note
    of_class = {f"u{user} in gpu on gpu-400": TENANTS[user % len(TENANTS)] for user in range(USERS)}
    left = {of_class[one] for one in set(every["job_class"]) - set(kept["job_class"])}
    assert left == {"physics"}
