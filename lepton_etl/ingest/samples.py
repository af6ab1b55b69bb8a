"""Samples of documents (JSON, XML, `-q` texts), found one by one, to readings and rejects by a rule table.

A decoder of documents only walks its document and says what stands there; mapping, units, stamps, bounds and counting
are the same for all and are done here on columns.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.ingest.decoded import REJECTS, Decoded, Origin, assemble, number_of, value_reason
from lepton_etl.ingest.rounds import Rounds, times_of
from lepton_etl.ingest.sensors import MEANING, Mapped, RuleTable, template_names
from lepton_etl.ingest.units import UTC_TIME, EpochUnit, parse_stamps, with_value
from lepton_etl.schema.common import STATE_QUANTITIES

CELLS: Final = pl.Schema(
    {
        "source_position": pl.Int64, "sensor": pl.String, "raw_value": pl.String, "stamp": pl.String,
        "node_id": pl.String, "device_id": pl.String, "window_s": pl.Float64, "multiplicity": pl.Int32, **MEANING,
        "state_code": pl.Float64, "found_reason": pl.String, "raw_text": pl.String,
    }
)  # fmt: skip

# What a stamp of seconds since 1970 looks like beside a wall clock.
_SECONDS: Final = re.compile(r"\d{9,10}(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a document as logged."""

    position: int
    """1-based line of the text, or number of the record where the text has no lines of its own."""
    sensor: str
    """Raw name; rules match it."""
    raw_value: str
    raw_unit: str = ""
    """Unit as the data names it; empty: the data name none and the first unit of the rule holds."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What device templates of rules may use beside the groups of the name."""
    stamp: str | None = None
    """As logged; None: the time of the path."""
    node_id: str | None = None
    """None: the node of the path."""
    window_s: float = 0.0
    """Window of a mean, min or max, whose stamp is its end; 0 for instants and counters."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A record of which nothing could be understood."""

    position: int
    reason: str
    raw_text: str
    sensor: str | None = None


def decode_samples(
    samples: Iterable[Sample],
    origin: Origin,
    rules: RuleTable,
    *,
    faults: Iterable[Fault] = (),
    structure_lines: int = 0,
    epoch: EpochUnit | None = None,
    rounds: Rounds | None = None,
) -> Decoded:
    """Return readings and rejects of the samples of one document; one sample is one record.

    Stamps are read as an `epoch` or as ISO 8601, in the origin's zone where they carry none; a sample without a stamp
    takes the path's time, else it is a reject (no_time); so is one of a further round (`rounds` of the file so far)
    without a sampling period. A sensor outside the rules is
    ignored (unmapped), one of the table's `no_value` words too (no_value). A unit named by the data wins; one that the
    rule does not expect is a reject (unit_mismatch).
    """
    ignored: Counter[tuple[str, str]] = Counter()
    cells = sample_cells(samples, origin, rules, ignored)
    return decode_cells(
        cells, ignored, origin, faults=faults, structure_lines=structure_lines, epoch=epoch, rounds=rounds
    )


def decode_stamped(
    samples: Iterable[Sample],
    origin: Origin,
    rules: RuleTable,
    *,
    faults: Iterable[Fault] = (),
    structure_lines: int = 0,
) -> Iterator[Decoded]:
    """Yield what `decode_samples` makes of samples whose stamps are seconds since 1970 or clocks, each by its look."""
    by_look: dict[bool, list[Sample]] = {True: [], False: []}
    for sample in samples:
        by_look[_SECONDS.fullmatch(sample.stamp or "") is not None].append(sample)
    yield decode_samples(by_look[False], origin, rules, faults=faults, structure_lines=structure_lines)
    if by_look[True]:
        yield decode_samples(by_look[True], origin, rules, epoch="s")


def sample_cells(
    samples: Iterable[Sample], origin: Origin, rules: RuleTable, ignored: Counter[tuple[str, str]]
) -> pl.DataFrame:
    """Return samples with a value as rows of CELLS; the others are counted in `ignored`."""
    rows = []
    for sample in samples:
        mapped = rules.find(sample.sensor, sample.labels, sample.raw_unit)
        text = sample.raw_value.strip()
        if mapped is None:
            ignored[(sample.sensor, "unmapped")] += 1
            continue
        of_states = mapped.quantity in STATE_QUANTITIES
        code = rules.state_code(mapped.rule, text) if of_states else None
        if (
            rules.is_no_value(text)
            or not rules.is_measured(mapped.rule, text)
            or (of_states and code is None)
        ):
            ignored[(sample.sensor, "no_value")] += 1
        else:
            rows.append(_row(sample, mapped, code, origin, rules))
    return pl.DataFrame(rows, schema=CELLS, orient="row")


def decode_cells(
    cells: pl.DataFrame,
    ignored: Mapping[tuple[str, str], int],
    origin: Origin,
    *,
    faults: Iterable[Fault] = (),
    structure_lines: int = 0,
    epoch: EpochUnit | None = None,
    rounds: Rounds | None = None,
) -> Decoded:
    """Return readings and rejects of mapped cells (CELLS): stamps, values and bounds as `decode_samples` says."""
    stamps = parse_stamps(cells.get_column("stamp"), timezone=origin.timezone, epoch=epoch)
    timed = with_times(cells, stamps, origin, rounds)
    return assemble(timed, [fault_frame(faults)], dict(ignored), structure_lines, None, origin)


def device_of(templates: tuple[str, ...], labels: Mapping[str, str]) -> str | None:
    """Return the first template whose labels are all there and not empty, filled in; None if none is."""
    for template in templates:
        if all(labels.get(name) for name in template_names(template)):
            return template.format_map(labels)
    return None


def _row(
    sample: Sample, mapped: Mapped, code: float | None, origin: Origin, rules: RuleTable
) -> tuple[object, ...]:
    """Return one mapped sample by the columns of CELLS."""
    unit = sample.raw_unit or rules.rules[mapped.rule].unit[0]
    device = device_of(mapped.devices, sample.labels)
    node = sample.node_id or origin.node_id
    raw_value = sample.raw_value.strip()
    at = "" if sample.stamp is None else f" at {sample.stamp}"
    return (
        sample.position, sample.sensor, raw_value, sample.stamp, node, device, sample.window_s, 1,
        *rules.meaning(mapped, unit), code, nameless(node, device),
        f"{sample.sensor} = {raw_value} {sample.raw_unit}".rstrip() + at,
    )  # fmt: skip


def nameless(node: str | None, device: str | None) -> str | None:
    """Return why a cell is refused that does not say whose it is."""
    return "empty_node_id" if node is None else "empty_device_id" if device is None else None


def with_times(
    cells: pl.DataFrame, stamps: pl.DataFrame, origin: Origin, rounds: Rounds | None = None
) -> pl.DataFrame:
    """Return cells with value, reading_time and reason.

    `stamps` are the parsed ones of the column `stamp`; where that is null the time of the path holds. `found_reason`
    is what was wrong before.
    """
    bare = pl.col("stamp").is_null()
    of_path = _of_path(cells, origin, rounds)
    time_reason = pl.when(~bare).then("time_reason").when(of_path.is_null()).then(pl.lit("no_time"))
    # A windowed value is stamped when it is known, at the end of its window; a reading names the start.
    back = pl.duration(microseconds=(pl.col("window_s") * 1e6).round().cast(pl.Int64))
    number = number_of(pl.col("raw_value"))
    timed = cells.with_columns(
        stamps.get_column("time"),
        stamps.get_column("reason").alias("time_reason"),
        (pl.coalesce("state_code", number) if "state_code" in cells.columns else number).alias("number"),
    )
    return with_value(timed).with_columns(
        pl.coalesce("found_reason", time_reason, value_reason()).alias("reason"),
        (pl.when(bare).then(of_path).otherwise("time") - back).alias("reading_time"),
    )


def _of_path(cells: pl.DataFrame, origin: Origin, rounds: Rounds | None) -> pl.Expr:
    """The time of each cell by the path, whether or not it has a stamp; null where that is not known."""
    bare = cells.get_column("stamp").is_null()
    if rounds is None or not bare.any():
        return pl.lit(origin.path_time, dtype=UTC_TIME)
    unstamped = cells.filter(bare)
    number = np.zeros(cells.height, np.int64)
    number[bare.to_numpy()] = rounds.of(
        unstamped.select("node_id", "device_id", "sensor", "point"),
        unstamped.get_column("source_position"),
        unstamped.get_column("raw_value"),
    )
    return pl.lit(times_of(number, origin))


def fault_frame(faults: Iterable[Fault]) -> pl.DataFrame:
    """Return faults as rejects that bring their own text."""
    rows = [(fault.position, fault.sensor, fault.reason, fault.raw_text) for fault in faults]
    return pl.DataFrame(rows, schema=REJECTS, orient="row")
