"""The field dictionary: every column's name, type, unit, meaning and bounds, declared once.

Delta schemas, comments and CHECK constraints, Arrow schemas, Great Expectations suites, decoder bounds and
docs/data-dictionary.md all come from here. Physical columns end in their unit; ratios run from 0 to 1.
"""

from __future__ import annotations

from typing import Final

from lepton_etl.schema import (
    carbon,
    common,
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
from lepton_etl.schema.declare import Field


def _once(*rooms: tuple[Field, ...]) -> dict[str, Field]:
    """All fields by name. Raises ValueError for a name that two rooms declare: it would have two meanings."""
    found: dict[str, Field] = {}
    for field in (field for room in rooms for field in room):
        if field.name in found:
            raise ValueError(f"field {field.name} is declared twice")
        found[field.name] = field
    return found


FIELDS: Final[dict[str, Field]] = _once(
    common.FIELDS,
    logs.FIELDS,
    jobs.FIELDS,
    fleet.FIELDS,
    energy.FIELDS,
    facility.FIELDS,
    ledger.ACCOUNTS_FIELDS,
    ledger.FIELDS,
    carbon.FIELDS,
    publication.FIELDS,
    diagnosis.FIELDS,
    recommend.FIELDS,
    release.FIELDS,
    operations.FIELDS,
    trust.FIELDS,
)


def fields_of(*names: str) -> tuple[Field, ...]:
    """The named fields, in this order; a name that the dictionary lacks raises KeyError."""
    return tuple(FIELDS[name] for name in names)
