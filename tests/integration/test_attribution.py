"""Jobs on Delta tables: accounting and intervals in, runs, holdings, states, energy of jobs and tenants out."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import structlog

from lepton_etl.attribution.node_energy import roll
from lepton_etl.attribution.node_split import split_nodes
from lepton_etl.attribution.node_states import node_states
from lepton_etl.attribution.tenants import with_node_figures
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.intervals.node_day import NOTHING_SAID
from lepton_etl.intervals.readings import roster
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import CLUSTER_HOUR, NODE_HOUR
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_NODE, JOB_RUN, NODE_STATE, TENANT_DAY
from lepton_etl.schema.logs import JOB
from pipelines import gold as attribution
from pipelines import silver as accounting
from pipelines.stage import StageContext
from tests.integration.laying import lay, rows_of
from tests.unit.attribution.accounting import SITE, bronze

DAY = date(2025, 6, 3)
DAYS = Days.of(DAY)
HOURS = [datetime(2025, 6, 3, hour, tzinfo=UTC) for hour in range(24)]
SINCE = datetime(2024, 1, 1, tzinfo=UTC)
KWH_PER_WATT_INTERVAL = 300 / 3.6e6
FIGURES = {
    "facility_energy_kwh": 1.5, "emissions_location_kgco2e": 0.3, "emissions_location_lower_kgco2e": 0.15,
    "emissions_location_upper_kgco2e": 0.6, "emissions_upstream_kgco2e": 0.06, "emissions_market_kgco2e": 0.1,
    "water_l": 2.0,
}  # fmt: skip
"""Of a cluster-hour, per kWh of its IT energy."""
# Job 10 holds half of n1 for two hours, 11 the rest of it for one hour and fails, 12 all of n2 across midnight.
SACCT = """JobIDRaw|Cluster|Account|State|Submit|Start|End|NNodes|AllocCPUS|NodeList|Restarts|ConsumedEnergyRaw
10|alpha|phys|COMPLETED|2025-06-03T00:00:00|2025-06-03T01:00:00|2025-06-03T03:00:00|1|4|n1|0|
11|alpha|chem|FAILED|2025-06-03T00:00:00|2025-06-03T02:00:00|2025-06-03T03:00:00|1|4|n1|0|
12|alpha|chem|RUNNING|2025-06-03T00:00:00|2025-06-03T23:00:00|Unknown|1|8|n2|0|
13|alpha|chem|COMPLETED|2025-06-03T00:00:00|2025-06-03T05:00:00|2025-06-03T06:00:00|1|8|n2|0|1080000
"""


def node(node_id: str, cluster_id: str = "alpha") -> dict[str, Any]:
    return {
        "site_id": SITE, "cluster_id": cluster_id, "node_id": node_id, "valid_from": SINCE, "idle_power_w": 100.0,
        "rated_power_w": 500.0, "gpu_count": 0, "core_count": 8,
    }  # fmt: skip


def intervals(node_id: str, power_w: float, silent_hour: int | None = None) -> list[dict[str, Any]]:
    """A day at one power, less an hour of silence; n3 stands by."""
    starts = [HOURS[0] + timedelta(minutes=minute) for minute in range(0, 1440, 5)]
    return [
        {
            "site_id": SITE, "cluster_id": "beta" if node_id == "n3" else "alpha", "node_id": node_id,
            "device_id": "node", "interval_start": start, "date": DAY, "interval_s": 300, "counts_in_total": True,
            "multiplicity": 1, "energy_kwh": power_w * KWH_PER_WATT_INTERVAL, "power_mean_w": power_w,
            "observed_s": 300.0, "conflicts": 0, "flags": [],
        }
        for start in starts
        if start.hour != silent_hour
    ]  # fmt: skip


def node_hours() -> pl.DataFrame:
    """Hours of the nodes; the silent one of n2 is imputed with 0.3 kWh, embodied carbon is 0.01 kg an hour."""
    rows = [
        {
            "site_id": SITE, "cluster_id": "alpha", "node_id": name, "hour_start": hour, "date": DAY,
            "it_energy_imputed_kwh": 0.3 if (name, hour.hour) == ("n2", 5) else None, "imputed_s": 3600.0,
            "it_energy_kwh": 0.3, "it_energy_lower_kwh": 0.27, "it_energy_upper_kwh": 0.36,
        }
        for name in ("n1", "n2")
        for hour in HOURS
    ]  # fmt: skip
    return rows_of(NODE_HOUR, rows).with_columns(
        pl.lit(0.01).alias("embodied_kgco2e"),
        pl.lit(0.005).alias("embodied_lower_kgco2e"),
        pl.lit(0.02).alias("embodied_upper_kgco2e"),
    )


def cluster_hours(unknown_hour: int) -> pl.DataFrame:
    """Hours of 2 kWh with all figures; of one hour the market-based emissions are unknown."""
    rows = [
        {"site_id": SITE, "cluster_id": "alpha", "hour_start": hour, "it_energy_kwh": 2.0,
         **{name: 2.0 * rate for name, rate in FIGURES.items()},
         **({"emissions_market_kgco2e": None} if hour.hour == unknown_hour else {})}
        for hour in HOURS
    ]  # fmt: skip
    return rows_of(CLUSTER_HOUR, rows)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("attribution")
    lake = Lake(root / "lake")
    context = context_of(lake, root)
    lay(lake, NODE, [node("n1"), node("n2"), node("n3", "beta")])
    nodes = lake.read(NODE).to_arrow()
    assert accounting.accounting(context, nodes) == ([], None)
    measured = [*intervals("n1", 300.0), *intervals("n2", 300.0, silent_hour=5), *intervals("n3", 20.0)]
    lay(lake, INTERVAL, measured, DAYS)
    assert attribution.accounted_clusters(context) == []
    lake.ensure(JOB)
    lake.write_rows(JOB, bronze(SACCT).to_pylist())
    written, holdings = accounting.accounting(context, nodes)
    assert holdings is not None
    own, held = lake.read(INTERVAL, DAYS), pl.DataFrame(holdings)
    lake.replace(NODE_STATE, DAYS, node_states(own, held, roster(nodes), SITE, NOTHING_SAID, list(DAYS)))
    clusters = attribution.accounted_clusters(context)
    assert clusters == ["alpha"]
    accounted = pl.col("cluster_id").is_in(clusters)
    hours, split = split_nodes(own.filter(accounted), node_hours(), held.filter(accounted), roll(nodes), 0.01)
    again: list[Any] = []
    for _ in range(2):
        figures = with_node_figures(hours, node_hours())
        again = attribution.write_jobs(context, figures, cluster_hours(unknown_hour=2))
    tables = {
        table.name: lake.read(table).to_dicts()
        for table in (JOB_RUN, JOB_NODE, NODE_STATE, JOB_ENERGY, TENANT_DAY)
    }
    return {"written": written, "split": split.to_dicts(), "again": again, **tables}


def context_of(lake: Lake, root: Path) -> StageContext:
    settings = Settings(
        site={"site_id": SITE}, lake={"root": lake.root.uri}, fleet={"inventory": root / "nodes.csv"},
        sources=[{"name": "jobs", "format": "slurm", "path": "landing/*.txt"}],
    )  # fmt: skip
    return StageContext(lake, settings, DAYS, "run", structlog.get_logger())


def test_accounting_makes_runs_holdings_and_states(made: Any) -> None:
    assert [(one.table, one.rows) for one in made["written"][:2]] == [
        ("silver/job_run", 4),
        ("silver/job_node", 4),
    ]
    states = sorted(
        (row["node_id"], row["from_time"].hour, row["node_state"], row["state_basis"])
        for row in made[NODE_STATE.name]
    )
    assert states == [
        ("n1", 0, "idle", "power"), ("n1", 1, "active", "jobs"), ("n1", 3, "idle", "power"),
        ("n2", 0, "idle", "power"), ("n2", 5, "active", "jobs"), ("n2", 6, "idle", "power"),
        ("n2", 23, "active", "jobs"), ("n3", 0, "standby", "power"),
    ]  # fmt: skip


def test_jobs_and_idle_are_the_energy_of_accounted_nodes(made: Any) -> None:
    split = {(row["node_id"], row["hour_start"].hour): row for row in made["split"]}
    assert {name for name, _ in split} == {"n1", "n2"}
    for (name, hour), row in split.items():
        assert row["jobs_energy_kwh"] + row["idle_energy_kwh"] == pytest.approx(0.3, rel=1e-9), (name, hour)
    assert split["n1", 1]["jobs_energy_kwh"] == pytest.approx(0.25)
    assert split["n1", 2]["idle_energy_kwh"] == pytest.approx(0.0, abs=1e-12)
    assert split["n2", 5]["jobs_energy_kwh"] == pytest.approx(0.3)


def test_a_run_takes_its_part_of_what_its_hours_emit_and_embody(made: Any) -> None:
    jobs = {row["job_id"]: row for row in made[JOB_ENERGY.name]}
    assert jobs["10"]["it_energy_kwh"] == pytest.approx(0.4)
    assert jobs["10"]["facility_energy_kwh"] == pytest.approx(0.6)
    assert jobs["10"]["emissions_location_kgco2e"] == pytest.approx(0.12)
    # The node's error is its jobs' error: 10 % down, 20 % up; carbon's is that of the cluster's hours.
    assert jobs["10"]["it_energy_lower_kwh"] == pytest.approx(0.36)
    assert jobs["10"]["it_energy_upper_kwh"] == pytest.approx(0.48)
    assert jobs["10"]["emissions_location_lower_kgco2e"] == pytest.approx(0.06)
    assert jobs["10"]["emissions_location_upper_kgco2e"] == pytest.approx(0.24)
    assert jobs["10"]["emissions_market_kgco2e"] is None
    assert jobs["12"]["emissions_market_kgco2e"] == pytest.approx(0.03)
    assert jobs["10"]["embodied_kgco2e"] == pytest.approx(0.01)
    assert jobs["10"]["embodied_upper_kgco2e"] == pytest.approx(0.02)
    assert jobs["10"]["sci_gco2e_per_job"] == pytest.approx(130.0)
    assert (jobs["10"]["energy_basis"], jobs["13"]["energy_basis"]) == ("measured", "estimated")
    assert jobs["10"]["energy_cost"] is None


def test_waste_is_what_failed_and_the_plugin_is_only_a_check(made: Any) -> None:
    jobs = {row["job_id"]: row for row in made[JOB_ENERGY.name]}
    assert jobs["11"]["wasted_energy_kwh"] == jobs["11"]["it_energy_kwh"] == pytest.approx(0.15)
    assert jobs["10"]["wasted_energy_kwh"] == 0
    assert jobs["13"]["scheduler_energy_kwh"] == pytest.approx(0.3)
    assert jobs["13"]["scheduler_energy_ratio"] == pytest.approx(1.0)
    assert jobs["10"]["scheduler_energy_kwh"] is None


def test_tenants_are_the_sums_of_their_jobs_by_every_rule(made: Any) -> None:
    tenants = {row["tenant_id"]: row for row in made[TENANT_DAY.name]}
    jobs = made[JOB_ENERGY.name]
    for rule in (
        "it_energy_kwh",
        "it_energy_usage_kwh",
        "it_energy_equal_kwh",
        "it_energy_lower_kwh",
        "it_energy_upper_kwh",
    ):
        assert sum(row[rule] for row in tenants.values()) == pytest.approx(sum(row[rule] for row in jobs))
    assert tenants["chem"]["job_count"] == 3
    assert tenants["phys"]["emissions_market_kgco2e"] is None
    assert tenants["phys"]["rule_spread_ratio"] >= 0
    assert all(not one.changed for one in made["again"])
