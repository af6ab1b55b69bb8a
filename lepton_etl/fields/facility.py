"""Fields of the facility model."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import Field

FIELDS: Final[tuple[Field, ...]] = ()
