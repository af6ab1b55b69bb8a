"""Every table, declared once: grain, key, partition, owner, retention, columns.

A column's type, unit, comment and bounds are the field dictionary's; here stands only which columns a table has.
Columns are only added, at the end.
"""

from __future__ import annotations

from typing import Final

from lepton_etl.schema import (
    carbon,
    diagnosis,
    energy,
    facility,
    fleet,
    jobs,
    ledger,
    logs,
    operations,
    publication,
    recommend,
    release,
    trust,
)
from lepton_etl.schema.declare import Table

TABLES: Final[dict[str, Table]] = {
    table.name: table
    for domain in (
        logs, fleet, jobs, energy, diagnosis, recommend, facility, ledger, carbon, publication, operations, release,
        trust,
    )
    for table in vars(domain).values()
    if isinstance(table, Table)
}  # fmt: skip
