"""Fields of what was published and restated."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import Field

FIELDS: Final[tuple[Field, ...]] = ()
