"""Say of each column who may see it: everybody, who works with the site, or nobody who need not know of a person.

`personal`: a person's pseudonym, what leads to a person by another system (a job's number), and texts that may hold
either. `public`: figures with a unit, and what tells of when, of which cluster and how well a figure is known.
`internal`: all else; names of hosts, files, sensors and meters are among them. A new column is internal until it is
named here.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from lepton_etl.schema.declare import Field

PrivacyClass = Literal["public", "internal", "personal"]
# What stands in place of a person's (u) or a tenant's (t) name.
PSEUDONYM: Final = re.compile(r"\b[ut]-[a-z2-7]{16}\b")

PERSONAL: Final = frozenset({
    "user_name", "job_id", "step_id", "raw_text", "job_class", "advice", "action_json", "decided_by", "note", "row_key",
    "old_value", "new_value", "figures",
})  # fmt: skip
# What names a host or a part of one: in no schema that leaves the site's own people.
HOSTS: Final = frozenset({
    "node_id", "device_id", "device_ids", "rack_id", "chassis_id", "node_list", "sensor", "path", "meter_id",
    "parent_id", "serves", "evidence", "explanation", "detail", "message", "advice", "action_json", "row_key",
    "figures", "old_value", "new_value", "anomaly_id",
})  # fmt: skip
PUBLIC: Final = frozenset({
    # When and where
    "site_id", "cluster_id", "zone_id", "date", "hour_start", "month", "period", "reporting_year",
    "last_date",
    # Figures without a unit, and what they are of
    "kpi", "kpi_value", "kpi_unit", "numerator", "numerator_unit", "denominator", "denominator_unit",
    "boundary", "edition", "pue_category", "is_interim", "currency", "energy_cost", "energy_cost_lower",
    "energy_cost_upper", "node_count", "job_count", "ledger_account", "side", "signal", "flow", "substance",
    "scope1_kind", "gwp_set", "technology", "vintage_year", "instrument_type",
    # How well they are known
    "account_basis", "attribution_basis", "balance_state", "cost_basis", "embodied_basis", "emissions_basis",
    "energy_basis", "estimated", "facility_basis", "factor_flags", "factor_set_version", "idle_basis",
    "intensity_basis", "kpi_basis", "kpi_reason", "market_basis", "network_by_bytes_basis",
    "network_by_feed_basis", "published_time", "pue_basis", "sci_basis", "status", "transfer_basis",
    "water_basis",
    # Released with noise
    "consumer", "protected_unit", "released_statistic", "released_value", "released_error", "epsilon", "released_time",
})  # fmt: skip


def privacy_class(field: Field) -> PrivacyClass:
    """Return who may see a column."""
    if field.name in PERSONAL:
        return "personal"
    return "public" if field.name in PUBLIC or field.unit is not None else "internal"
