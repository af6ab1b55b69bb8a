"""`lepton-etl trace`: print where a figure comes from, step by step, down to the lines of the logs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import structlog

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import printable
from lepton_etl.lake.landing import Landing
from lepton_etl.lake.tables import Lake
from lepton_etl.trust.as_recorded import Recorded
from lepton_etl.trust.people import People
from lepton_etl.trust.source_lines import SourceLines
from lepton_etl.trust.stretches import Readings
from lepton_etl.trust.trace import Choice, Step, Tracer

if TYPE_CHECKING:
    import polars as pl

    from lepton_etl.intervals.node_day import IntervalPolicy


def tracer_of(settings: Settings, day: date, choice: Choice) -> Tracer:
    """Return what traces figures of a published day. Raises LakeError for a day that was never published."""
    from pipelines.silver import interval_policy, source_facts
    from pipelines.stage import StageContext

    lake = Lake.of(settings)

    def policy(days: Days, nodes: pl.DataFrame) -> IntervalPolicy:
        context = StageContext(lake, settings, days, "trace", structlog.get_logger())
        return interval_policy(context, nodes.to_arrow())

    names = {name: pseudonym for (_, name), pseudonym in People.of(lake, settings).names().items()}
    lines = SourceLines(lake, settings, Landing.of(settings), names)
    return Tracer(Readings(Recorded.of(lake, day), settings, policy, source_facts(settings)), lines, choice)


def print_trace(steps: Sequence[Step], gone: Sequence[str], *, as_json: bool) -> None:
    """Print the walks as a tree, or as JSON."""
    if as_json:
        print(
            json.dumps({"figures": [asdict(step) for step in steps], "missing": list(gone)}, default=_plain)
        )
        return
    for step in steps:
        for text in _lines_of(step, 0):
            print(printable(text))
    for what in gone:
        print(printable(f"missing: {what}"))


def _lines_of(step: Step, depth: int) -> Iterator[str]:
    pad, inner = "  " * depth, "  " * (depth + 1)
    if step.table != "bronze/reading":
        version = "" if step.version is None else f" (version {step.version})"
        yield f"{pad}{step.table}{version} {_shown(step.key)}"
        yield f"{inner}{step.column} = {'unknown' if step.value is None else repr(step.value)}"
    if step.formula:
        rows = f", {step.rows:,} rows" if step.rows else ""
        yield f"{inner}= {step.formula}{rows}"
    if step.numbers:
        yield f"{inner}= {step.numbers}"
    if step.made_by:
        yield f"{inner}made by {step.made_by}"
    for note in step.notes:
        yield f"{inner}{note}"
    for part in step.parts:
        share = "" if part.share is None else f"  {part.share:.1%}"
        yield f"{inner}. {part.column} {part.value!r}{share}  {_shown(part.key)}"
    own = sum(part.share is not None for part in step.parts)
    if own and step.rows > own:
        yield f"{inner}. and {step.rows - own:,} more rows: --all, or --node"
    for line in step.lines:
        unit = f" {line.raw_unit}" if line.raw_unit else ""
        yield (
            f"{inner}{_plain(line.reading_time)} {line.sensor} = {line.raw_value}{unit} "
            f"({line.path or line.file_id}, {line.kind} {line.position})"
        )
        yield f"{inner}    {line.text if line.text is not None else f'[{line.missing or line.kind}]'}"
    for below in step.steps:
        yield from _lines_of(below, depth + 1)


def _shown(key: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={_plain(value) if isinstance(value, date) else value}" for name, value in key.items()
    )


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%dT%H:%M:%SZ}"
    return value.isoformat() if isinstance(value, date) else str(value)
