"""Fields and tables of jobs, of what they held, and of the energy that jobs and tenants are charged with."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.common import ATTRIBUTION_BASIS, JOB_OUTCOMES, NODE_STATES, STATE_BASIS
from lepton_etl.schema.declare import (
    DOUBLE,
    INT,
    STRINGS,
    Field,
    Table,
    count,
    end_names,
    energy,
    ratio,
    text,
    time,
    watts,
)
from lepton_etl.schema.energy import CARBON_ENDS

FIELDS: Final[tuple[Field, ...]] = (
    # What a scheduler logs beside the job itself
    text("record", "What a row accounts for.", ("job", "step", "allocation")),
    text("tenant_id", "Who is charged: the scheduler's account, or a Kubernetes namespace."),
    Field("device_ids", STRINGS, None, "Devices held on the node; null where only their number is known."),
    Field("cpu_time_s", DOUBLE, "second", "CPU time used, all cores together.", ge=0.0, le=1e13),
    # Runs and what they held
    text("outcome", "How the run ended.", JOB_OUTCOMES),
    time("from_time", "First instant, clipped to the UTC day."),
    time("to_time", "First instant after, clipped to the UTC day."),
    text(
        "attribution_basis",
        "How GPU energy came to the job: by device, by number, by cores; `none` where the job held no GPU.",
        ATTRIBUTION_BASIS,
    ),
    Field("held_s", DOUBLE, "second", "Seconds in which the job held a part of the node.", ge=0.0, le=1e12),
    Field("covered_s", DOUBLE, "second", "Held seconds with measured or imputed energy.", ge=0.0, le=1e12),
    text("node_state", "What the node was doing.", NODE_STATES),
    text("state_basis", "What the state was found by.", STATE_BASIS),
    # What a node has to share out (inventory)
    Field("core_count", INT, None, "Cores of the node as its scheduler counts them.", ge=1, le=100_000),
    Field("memory_total_byte", DOUBLE, "byte", "Memory of the node.", ge=0.0, le=1e18),
    watts("cpu_idle_power_w", "Idle power of the node's CPUs together.", 1e5),
    watts("memory_idle_power_w", "Idle power of the node's memory.", 1e5),
    watts("gpu_idle_power_w", "Idle power of one GPU board.", 5e3),
    # Energy of a job
    energy("dynamic_kwh", "Energy above idle, by the measured shares of the job's devices."),
    energy("static_kwh", "Idle energy by rule `reservation`, the published one."),
    energy("imputed_kwh", "The part of dynamic and static energy that a model or history filled in."),
    energy("wasted_energy_kwh", "Energy of runs that did not complete, and of idle held GPUs."),
    energy("it_energy_usage_kwh", "IT energy by rule `usage`."),
    energy("it_energy_equal_kwh", "IT energy by rule `equal`."),
    ratio("reserved_share_ratio", "Reserved share of the node over the whole hour (of a day: the mean)."),
    Field(
        "rule_spread_ratio", DOUBLE, "dimensionless",
        "Largest less smallest of the three rules over `reservation`.", ge=0.0, le=1e9,
    ),
    count("job_count", "Runs that held a part of a node on the day."),
    Field("gpu_held_h", DOUBLE, "hour", "GPU-hours held.", ge=0.0, le=1e12),
    Field("node_held_h", DOUBLE, "hour", "Node-hours held, by reserved share.", ge=0.0, le=1e12),
    energy("scheduler_energy_kwh", "Energy by the scheduler's plugin, of runs alone on their nodes within the day."),
    Field(
        "scheduler_energy_ratio", DOUBLE, "dimensionless",
        "Scheduler's energy over ours; a cross-check, never used.", ge=0.0, le=1e6,
    ),
    Field(
        "sci_gco2e_per_job", DOUBLE, "gram_co2e",
        "SCI: location-based operational and embodied emissions of a whole run, over all its days.", ge=0.0, le=1e15,
    ),
    text(
        "sci_basis", "Whether the SCI is of the whole run; `running`: it stands on the row of the day it ended.",
        ("complete", "running", "unknown"),
    ),
    Field(
        "sci_gco2e_per_gpu_hour", DOUBLE, "gram_co2e / hour",
        "SCI with a held GPU-hour as the functional unit.", ge=0.0, le=1e12,
    ),
)  # fmt: skip

RUN_KEY: Final = ("site_id", "cluster_id", "job_id", "submit_time", "restart")

JOB_RUN: Final = Table(
    "silver/job_run", grain="one run of a job on one UTC day that it touched", partition="date", owner="attribution",
    key=(*RUN_KEY, "date"),
    columns=(
        *RUN_KEY, "date", "tenant_id", "user_name", "partition", "outcome", "start_time", "end_time", "node_count",
        "cpu_count", "gpu_count", "memory_byte", "cpu_time_s", "consumed_energy_j", "node_list", "flags", "file_id",
    ),
    not_null=("outcome", "start_time"),
)  # fmt: skip

JOB_NODE: Final = Table(
    "silver/job_node", grain="what one run held of one node on one UTC day", partition="date", owner="attribution",
    key=("site_id", "cluster_id", "node_id", "job_id", "submit_time", "restart", "date"),
    columns=(
        "site_id", "cluster_id", "node_id", "job_id", "submit_time", "restart", "date", "tenant_id", "outcome",
        "from_time", "to_time", "cpu_count", "memory_byte", "gpu_count", "device_ids", "cpu_time_s",
        "attribution_basis",
    ),
    not_null=("from_time", "to_time", "outcome", "attribution_basis"),
    warnings=("cpu_time_s is the run's, shared evenly over its held time and by its CPUs over its nodes.",),
)  # fmt: skip

NODE_STATE: Final = Table(
    "silver/node_state", grain="one state of one node, clipped to the UTC day", partition="date",
    owner="attribution", key=("site_id", "cluster_id", "node_id", "from_time"),
    columns=("site_id", "cluster_id", "node_id", "date", "from_time", "to_time", "node_state", "state_basis"),
    not_null=("date", "to_time", "node_state", "state_basis"),
)  # fmt: skip

_ENERGY: Final = (
    "it_energy_kwh", "it_energy_lower_kwh", "it_energy_upper_kwh", "dynamic_kwh", "static_kwh",
    "it_energy_usage_kwh", "it_energy_equal_kwh", "imputed_kwh", "gpu_energy_kwh", "wasted_energy_kwh",
    "facility_energy_kwh", "emissions_location_kgco2e", "emissions_location_lower_kgco2e",
    "emissions_location_upper_kgco2e", "emissions_upstream_kgco2e",
    "emissions_market_kgco2e", "embodied_kgco2e", "water_l",
)  # fmt: skip

FACILITY_ENDS: Final = end_names("facility_energy_kwh")
# How a run ends whose energy brought nothing.
WASTED_OUTCOMES: Final = ("failed", "cancelled", "timeout", "requeued")
# Of the factors that the figures of the day take; the same for all rows of a site's day.
FACTOR_STATE: Final = ("factor_age_years", "factor_flags")

JOB_ENERGY: Final = Table(
    "gold/job_energy", grain="one run of a job on one UTC day", partition="date", owner="attribution",
    key=(*RUN_KEY, "date"),
    columns=(
        *RUN_KEY, "date", "tenant_id", "outcome", "node_count", "gpu_count", "held_s", "covered_s", "coverage_ratio",
        "gpu_held_h", "node_held_h", "reserved_share_ratio", *_ENERGY, "sci_gco2e_per_job", "scheduler_energy_kwh",
        "scheduler_energy_ratio", "attribution_basis", "energy_basis", "status", "energy_cost", "currency",
        "sci_basis",
        *FACTOR_STATE, *CARBON_ENDS, *FACILITY_ENDS, *end_names("energy_cost"),
        "data_transferred_byte", "transfer_energy_kwh", "transfer_basis",
    ),
    not_null=("outcome", "attribution_basis", "energy_basis", "status"),
    warnings=("Sums of a run over dates give the run; figures of a day alone rest on what was held that day.",),
)  # fmt: skip

TENANT_DAY: Final = Table(
    "gold/tenant_day", grain="one tenant of a cluster over one UTC day", partition="date", owner="attribution",
    key=("site_id", "cluster_id", "tenant_id", "date"),
    columns=(
        "site_id", "cluster_id", "tenant_id", "date", "job_count", "gpu_held_h", "node_held_h", "held_s",
        "covered_s", "coverage_ratio", *_ENERGY, "rule_spread_ratio", "sci_gco2e_per_job",
        "sci_gco2e_per_gpu_hour", "energy_basis", "status", "energy_cost", "currency",
        *FACTOR_STATE, *CARBON_ENDS, *FACILITY_ENDS, *end_names("energy_cost"),
    ),
    not_null=("energy_basis", "status"),
    warnings=("The three rules share out the same idle energy: compare them before a tenant is billed.",),
)  # fmt: skip
