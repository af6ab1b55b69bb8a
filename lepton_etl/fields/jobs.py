"""Fields of jobs, tenants and what they held."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import Field

FIELDS: Final[tuple[Field, ...]] = ()
