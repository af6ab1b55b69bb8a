"""Every table, declared once: grain, key, partition, owner, retention, columns.

A column's type, unit, comment and bounds are the field dictionary's; here stands only which columns a table has.
Columns are only added, at the end.
"""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables import (
    accounts,
    advice,
    bronze,
    carbon,
    diagnosis,
    facility,
    gold,
    jobs,
    ledger,
    operations,
    publication,
    silver,
)
from lepton_etl.lake.tables.bronze import FILE, JOB, READING, REJECT
from lepton_etl.lake.tables.declare import Table
from lepton_etl.lake.tables.diagnosis import ANOMALY, FORECAST, JOB_POWER, STATE
from lepton_etl.lake.tables.gold import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, PREDICTION, SITE_HOUR
from lepton_etl.lake.tables.operations import RUN, STAGE_RUN
from lepton_etl.lake.tables.silver import FACILITY_INTERVAL, GRID_HOUR, INTERVAL, METER, NODE, WEATHER_HOUR

__all__ = [
    "ANOMALY",
    "CLUSTER_DAY",
    "CLUSTER_HOUR",
    "FACILITY_INTERVAL",
    "FILE",
    "FORECAST",
    "GRID_HOUR",
    "INTERVAL",
    "JOB",
    "JOB_POWER",
    "METER",
    "NODE",
    "NODE_HOUR",
    "PREDICTION",
    "READING",
    "REJECT",
    "RUN",
    "SITE_HOUR",
    "STAGE_RUN",
    "STATE",
    "TABLES",
    "WEATHER_HOUR",
    "Table",
]

_ROOMS: Final = (
    bronze,
    silver,
    jobs,
    gold,
    diagnosis,
    advice,
    facility,
    accounts,
    ledger,
    carbon,
    publication,
    operations,
)

TABLES: Final[dict[str, Table]] = {
    table.name: table for room in _ROOMS for table in vars(room).values() if isinstance(table, Table)
}
