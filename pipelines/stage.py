"""What every stage takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

import polars as pl
import pyarrow as pa
import structlog

from lepton_etl.days import Days
from lepton_etl.lake.node_parts import LEAST_ROWS
from lepton_etl.lake.tables import Lake, Written
from pipelines.engine import Engine, InlineEngine

if TYPE_CHECKING:
    from lepton_etl.config.settings import Settings
    from pipelines.train import Begun

Result = TypeVar("Result")


@dataclass(frozen=True)
class Read(Generic[Result]):
    """What was made of tables by whoever read them, and the versions that were read."""

    made: Result
    versions: Mapping[str, int]


@dataclass(frozen=True)
class Ahead:
    """Work of later stages that goes on beside earlier ones; a stage does itself what is None.

    `fit` is the table of gold's facility fits, None where none can be made; `forecast` the rows of the grid's forecast.
    """

    fit: Callable[[], Read[pa.Table | None]] | None = None
    forecast: Callable[[], Read[pl.DataFrame]] | None = None
    learning: Callable[[], Begun] | None = None


@dataclass(frozen=True)
class StageContext:
    """One stage of one run: the lake, the settings in force, the UTC days to make, and where its tasks run."""

    lake: Lake
    settings: Settings
    days: Days
    run_id: str
    log: structlog.stdlib.BoundLogger
    engine: Engine = field(default_factory=InlineEngine)
    ahead: Ahead = field(default_factory=Ahead)


@dataclass(frozen=True)
class StageResult:
    """Rows read and written, what was committed, and lines for the operator."""

    rows_in: int = 0
    rows_out: int = 0
    written: tuple[Written, ...] = ()
    notes: tuple[str, ...] = field(default=())
    # Work that goes on beside later stages; the night waits for it before the report, and notes what it returns.
    beside: Callable[[], tuple[str, ...]] | None = None


def worthy(engine: Engine, rows: int) -> Engine:
    """Return the engine for work on so many rows: this process where they are few, since a job of Spark costs 0.3 s."""
    return engine if rows > LEAST_ROWS else InlineEngine()
