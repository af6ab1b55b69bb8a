"""The field dictionary: every column's name, type, unit, meaning and bounds, said once.

Spark schemas, Delta comments and CHECK constraints, Great Expectations suites, decoder bounds and
docs/data-dictionary.md all come from here. Physical columns end in their unit; ratios run from 0 to 1.
"""

from __future__ import annotations

from typing import Final

from lepton_etl.fields import (
    accounts,
    advice,
    carbon,
    diagnosis,
    facility,
    figures,
    fleet,
    identity,
    jobs,
    ledger,
    logs,
    operations,
    publication,
)
from lepton_etl.fields.declare import (
    BOOLEAN,
    DATE,
    DOUBLE,
    GRAMS_PER_KILOGRAM,
    INT,
    JOULES_PER_KWH,
    LONG,
    SECONDS_PER_HOUR,
    STRING,
    STRINGS,
    TIMESTAMP,
    Field,
    Quantity,
    ureg,
)  # fmt: skip
from lepton_etl.fields.quantities import QUANTITIES
from lepton_etl.fields.words import ENERGY_BASIS, ENERGY_SOURCES, PUE_BASIS, STATISTICS

__all__ = [
    "BOOLEAN", "DATE", "DOUBLE", "ENERGY_BASIS", "ENERGY_SOURCES", "FIELDS", "GRAMS_PER_KILOGRAM", "INT",
    "JOULES_PER_KWH", "LONG", "PUE_BASIS", "QUANTITIES", "SECONDS_PER_HOUR", "STATISTICS", "STRING", "STRINGS",
    "TIMESTAMP", "Field", "Quantity", "fields_of", "ureg",
]  # fmt: skip


def _once(*rooms: tuple[Field, ...]) -> dict[str, Field]:
    """All fields by name. Raises ValueError for a name that two rooms declare: it would have two meanings."""
    found: dict[str, Field] = {}
    for field in (field for room in rooms for field in room):
        if field.name in found:
            raise ValueError(f"field {field.name} is declared twice")
        found[field.name] = field
    return found


FIELDS: Final[dict[str, Field]] = _once(
    identity.FIELDS,
    logs.FIELDS,
    jobs.FIELDS,
    fleet.FIELDS,
    figures.FIELDS,
    facility.FIELDS,
    accounts.FIELDS,
    ledger.FIELDS,
    carbon.FIELDS,
    publication.FIELDS,
    diagnosis.FIELDS,
    advice.FIELDS,
    operations.FIELDS,
)


def fields_of(*names: str) -> tuple[Field, ...]:
    """The named fields, in this order; a name that the dictionary lacks raises KeyError."""
    return tuple(FIELDS[name] for name in names)
