"""What a table declares."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_etl.fields import Field, fields_of


@dataclass(frozen=True, slots=True)
class Table:
    """A Delta path table `<lake.root>/<name>`.

    `key` makes a row unique (empty: append-only log). A `partition` by date is what `Lake.replace` replaces.
    `warnings` are for the reader of the figures. `log_days`: how far back the Delta log of a table goes that is
    replaced every minute; None: Delta's default.
    """

    name: str
    grain: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    owner: str
    partition: str | None = None
    append_only: bool = False
    not_null: tuple[str, ...] = ()
    retention_days: int | None = None
    warnings: tuple[str, ...] = ()
    log_days: int | None = None

    @property
    def fields(self) -> tuple[Field, ...]:
        return fields_of(*self.columns)

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that are never null: the key and what the table adds to it."""
        return tuple(c for c in self.columns if c in self.key or c in self.not_null)

    @property
    def indexed(self) -> tuple[str, ...]:
        """Columns with file statistics: the key, and the times of logs."""
        logged = {"reading_time", "reading_date", "file_id", "batch", "quantity", "published_time", "date"}
        named = {*self.key, *logged} - {self.partition}
        return tuple(c for c in self.columns if c in named)

    def before(self, column: str) -> tuple[str, ...]:
        """The columns that stand before `column`; a transform that adds it selects them first."""
        return self.columns[: self.columns.index(column)]
