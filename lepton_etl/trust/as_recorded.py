"""Tables of a published day as its night read them: by the versions of ops/stage_run, as long as those are kept."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake.exceptions import DeltaError

from lepton_etl.days import Days
from lepton_etl.errors import LakeError
from lepton_etl.lake.log_files import open_log
from lepton_etl.lake.tables import Lake, read_log
from lepton_etl.schema.declare import Table
from lepton_etl.schema.operations import NIGHT, STAGE_RUN


@dataclass
class Recorded:
    """Reads tables of one UTC day in the versions that its night recorded, gold as published.

    Where a version is gone (its log expired, or its files were removed) the newest is read, and `gone` says so.
    """

    lake: Lake
    day: date
    versions: Mapping[str, int]
    days: Days
    gone: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, lake: Lake, day: date) -> Recorded:
        """What ops/night and ops/stage_run say of the day. Raises LakeError for one that was never published."""
        night = lake.arrow(NIGHT, Days.of(day)).to_pylist()
        if not night:
            raise LakeError("the day was never published", where=f"ops/night {day}", remedy="run its night")
        made = (pc.field("date_from") <= pa.scalar(day)) & (pc.field("date_until") >= pa.scalar(day))
        done = made & (pc.field("state") == "done") & (pc.field("run_id") == night[0]["run_id"])
        rows = {row["stage"]: row for row in lake.arrow(STAGE_RUN, where=done).to_pylist()}
        versions: dict[str, int] = {}
        # What silver read, what gold read of silver, and what silver wrote: the later word holds.
        for stage, column in (
            ("silver", "input_versions"),
            ("silver", "table_versions"),
            ("gold", "input_versions"),
        ):
            if stage in rows:
                versions |= json.loads(rows[stage][column] or "{}")
        silver = rows.get("silver")
        days = Days(silver["date_from"], silver["date_until"]) if silver else Days.of(day)
        found = cls(lake.as_published(), day, versions, days)
        if "gold" not in rows:
            found.gone.append(
                f"ops/stage_run has no record of the run that made {day}: newest versions are read"
            )
        return found

    def read(
        self, table: Table, days: Days | None = None, where: pc.Expression | None = None
    ) -> tuple[pl.DataFrame, int | None]:
        """Return rows and the version that they are of."""
        wanted = None if table.name.startswith(("gold/", "ops/")) else self.versions.get(table.name)
        return self._at(wanted, table, days, where)

    def read_input(self, table: Table, days: Days) -> pl.DataFrame:
        """Return rows of a table of gold as the stage gold found them, which may have been restated since."""
        return self._at(self.versions.get(table.name), table, days, None)[0]

    def _at(
        self, wanted: int | None, table: Table, days: Days | None, where: pc.Expression | None
    ) -> tuple[pl.DataFrame, int | None]:
        if not self.lake.exists(table):
            self.note(f"{table.name} does not exist")
            return self.lake.read(table), None
        if wanted is not None:
            try:
                log = open_log(self.lake.at(table), wanted)
                return read_log(table, log, days, table.columns, where), wanted
            except (DeltaError, LakeError, OSError):
                newest = self.lake.version(table)
                self.note(
                    f"version {wanted} of {table.name}, which the night read, is gone (VACUUM or an expired log): "
                    f"version {newest} is read"
                )
        rows = self.lake.read(table, days, where=where)
        return rows, self.lake.inputs.get(table.name)

    def note(self, what: str) -> None:
        """Name a record that is gone, once."""
        if what not in self.gone:
            self.gone.append(what)


@dataclass
class Kept:
    """A few results by key, the least lately used given up first."""

    size: int
    _of: OrderedDict[Hashable, Any] = field(default_factory=OrderedDict)

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return what is kept under the key, made where it is not."""
        if key not in self._of:
            self._of[key] = make()
            if len(self._of) > self.size:
                self._of.popitem(last=False)
        self._of.move_to_end(key)
        return self._of[key]
