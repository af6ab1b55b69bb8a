"""Jobs, what they held, and the energy they are charged with."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

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

JOB_ENERGY: Final = Table(
    "gold/job_energy", grain="one run of a job on one UTC day", partition="date", owner="attribution",
    key=(*RUN_KEY, "date"),
    columns=(
        *RUN_KEY, "date", "tenant_id", "outcome", "node_count", "gpu_count", "held_s", "covered_s", "coverage_ratio",
        "gpu_held_h", "node_held_h", "reserved_share_ratio", *_ENERGY, "sci_gco2e_per_job", "scheduler_energy_kwh",
        "scheduler_energy_ratio", "attribution_basis", "energy_basis", "status", "energy_cost", "currency",
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
    ),
    not_null=("energy_basis", "status"),
    warnings=("The three rules share out the same idle energy: compare them before a tenant is billed.",),
)  # fmt: skip
