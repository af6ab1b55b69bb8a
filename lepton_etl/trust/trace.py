"""Walk from a figure down to the log lines that it is made of, by formulas and kernels of the night itself.

Each step reads stored rows, in the versions that the night recorded, evaluates the column's formula
(schema/formulas.py) over them and holds the result against the stored figure: one that differs is an error. What no
table holds (a run's part of a node-hour, which sensor spoke for an interval) is made again by the kernel that the
night used, and held against the table above. A record that is gone is named; nothing is put in its place.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import polars as pl
import polars.selectors as cs
import pyarrow.compute as pc

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.energy.gaps import HISTORY, HISTORY_DAYS, MODEL, with_imputed
from lepton_etl.energy.node_hours import NODE_HOUR_KEY
from lepton_etl.errors import ConfigurationError, LakeError, ModelError, RegistryError
from lepton_etl.lake.runs import recorded_models
from lepton_etl.schema.declare import SECONDS_PER_HOUR
from lepton_etl.schema.energy import NODE_HOUR
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.formulas import (
    FILLED,
    JOB_HOUR,
    MADE,
    MODELLED_INTERVAL,
    OWN,
    SEGMENT,
    VOLUME_STEP,
    Beside,
    Formula,
    formulas_of,
    told_columns,
    told_tables,
)
from lepton_etl.schema.jobs import JOB_ENERGY, RUN_KEY
from lepton_etl.schema.ledger import ENERGY_LEDGER
from lepton_etl.schema.operations import NIGHT
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.untold import reason_of
from lepton_etl.trust.as_recorded import Recorded
from lepton_etl.trust.day_rows import DayRows
from lepton_etl.trust.source_lines import Line, SourceLines, line_of, line_of_job
from lepton_etl.trust.stretches import Readings, readings_of, shown, steps_shown

Row = Mapping[str, Any]

# A figure and its formula agree to this share; every addend of a sum was rounded to the ninth digit.
RELATIVE: Final = 1e-9
_ADDEND: Final = 5e-10
# How many contributors a step shows.
SHOWN: Final = 5
_LEAF: Final = "bronze/reading"
_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)
_AGGREGATE: Final = re.compile(r"\b(?:SUM|MAX|MIN|AVG|COUNT)\(")
_TIME: Final = "%Y-%m-%dT%H:%MZ"
# Words for what people ask.
SHORT_NAMES: Final = {
    "energy_kwh": "it_energy_kwh", "carbon": "emissions_location_kgco2e", "cost": "energy_cost", "pue": "pue_ratio",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """One row that a figure is summed over: its key, the followed column's value, and its share of the sum."""

    key: Row
    column: str
    value: float | None
    share: float | None


@dataclass
class Step:
    """One figure of the walk: how it is made, with what numbers, of which rows, and where those come from.

    `numbers` is the formula with its numbers in place; evaluated it gives `value`. `rows` counts what was summed,
    `parts` are the largest of them, `steps` those that were followed. `lines` end a walk.
    """

    table: str
    key: Row
    column: str
    value: float | None
    version: int | None = None
    formula: str = ""
    numbers: str = ""
    made_by: str = ""
    rows: int = 0
    parts: list[Part] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def walk(self) -> Iterator[Step]:
        """Yield this step and all below it."""
        yield self
        for step in self.steps:
            yield from step.walk()


@dataclass(frozen=True, slots=True)
class Choice:
    """How far a walk goes: every part (`whole`) or the largest; of the rows of nodes only those of `nodes`."""

    whole: bool = False
    nodes: frozenset[str] = frozenset()


@dataclass
class Tracer:
    """Traces figures of one published UTC day."""

    readings: Readings
    source_lines: SourceLines
    choice: Choice = Choice()
    rows: DayRows = field(init=False)
    _seen: set[str] = field(default_factory=set)
    _pending: list[tuple[Step, list[Line]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = DayRows(self.recorded, self.settings)

    @property
    def recorded(self) -> Recorded:
        """The day's tables."""
        return self.readings.recorded

    @property
    def settings(self) -> Settings:
        """The site's settings."""
        return self.readings.settings

    def figures(self, table_name: str, column: str, wanted: Mapping[str, Sequence[str]]) -> list[Step]:
        """Trace a column of the day's rows whose columns have one of the wanted values.

        Raises ConfigurationError for a table or column without a formula, LakeError where no row fits, or where a
        formula does not give its figure.
        """
        if table_name not in told_tables():
            raise ConfigurationError(
                f"no formula of {table_name} is known",
                where="trace",
                remedy=f"one of {', '.join(told_tables())}",
            )
        table = TABLES[table_name]
        column = column if column in table.columns else SHORT_NAMES.get(column, column)
        if column not in told_columns(table.name) and (table.name, column) != FILLED:
            why = reason_of(table.name, column)
            raise ConfigurationError(
                f"no formula of {table.name}.{column} is known{f': {why}' if why else ''}",
                where="trace",
                remedy=f"one of {', '.join(told_columns(table.name))}",
            )
        rows, version = self.rows.of(table.name, {"date": self.recorded.day})
        for name, values in wanted.items():
            if name not in table.columns:
                raise ConfigurationError(
                    f"{table.name} has no column {name}",
                    where="trace",
                    remedy=f"its key is {', '.join(table.key)}",
                )
            is_time = isinstance(rows.schema[name], pl.Datetime)
            said = pl.col(name).dt.strftime(_TIME) if is_time else pl.col(name).cast(pl.String)
            rows = rows.filter(said.is_in(list(values)))
        if rows.is_empty():
            asked = ", ".join(f"{name} {' or '.join(values)}" for name, values in wanted.items())
            raise LakeError(
                f"no published row of {self.recorded.day}{f' with {asked}' if asked else ''}",
                where=table.name,
                remedy=f"`lepton-etl tables show {table.name}` lists them",
            )
        steps = [self._cell(table.name, row, column, version) for row in rows.sort(table.key).to_dicts()]
        self._find_lines()
        return steps

    def cell(self, table: str, own: Row, column: str, version: int | None = None) -> Step:
        """Trace one figure. Raises LakeError where its formula gives another one."""
        step = self._cell(table, own, column, version)
        self._find_lines()
        return step

    def _find_lines(self) -> None:
        """Look up the texts of all steps at once: each delivered file is read once."""
        found = iter(self.source_lines.read([line for _, lines in self._pending for line in lines]))
        for step, lines in self._pending:
            step.lines = list(itertools.islice(found, len(lines)))
        self._pending.clear()

    def _cell(self, table: str, own: Row, column: str, version: int | None) -> Step:
        step = Step(table, _key(table, own), column, own.get(column), version, made_by=MADE.get(table, ""))
        if table == _LEAF:
            self._pending.append((step, [line_of(own)]))
            return step
        name = f"{table} {column} {sorted(step.key.items(), key=str)}"
        if name in self._seen:
            step.notes.append("shown above")
            return step
        self._seen.add(name)
        if table == JOB_ENERGY.name and own["date"] != self.recorded.day:
            step.notes.append(f"of another day of the run: trace it with --date {own['date']}")
            return step
        if (table, column) == FILLED:
            self._imputed(step, own)
            return step
        formula, frame = self._made(table, own, column)
        if formula is None:
            step.notes.append("no formula is known of such a row: its basis says what it rests on")
            return step
        self._evaluate(step, formula, frame)
        if formula.rows == SEGMENT:
            step.parts = [Part(row, "energy_j", row.pop("energy_j"), None) for row in shown(frame)]
            self._pending.append((step, [line_of(row) for row in readings_of(frame)]))
            step.notes += self._said_of(table, own)
            return step
        if formula.rows == VOLUME_STEP:
            step.parts = [Part(row, "litres", row.pop("litres"), None) for row in steps_shown(frame)]
            self._pending.append((step, [line_of(row) for row in readings_of(frame)]))
            return step
        if formula.rows == MODELLED_INTERVAL:
            self._modelled(step, own, frame)
            return step
        self._follow(step, formula, own, frame)
        if table == JOB_ENERGY.name:
            started = self.rows.accounted(own)
            self._pending.append((step, [line_of_job(row) for row in started]))
        return step

    # Formulas

    def _made(self, table: str, own: Row, column: str) -> tuple[Formula | None, pl.DataFrame]:
        """The formula that holds for the row, and the rows that it is over."""
        for formula in formulas_of(table, column):
            of_rows = formula.when is not None and bool(_AGGREGATE.search(formula.when))
            if formula.when is not None and not of_rows:
                beside = self._with_beside(_frame_of(own), formula)
                if beside.select(pl.sql_expr(formula.when)).item() is not True:
                    continue
            frame = self._frame(formula, own)
            if of_rows and frame.select(pl.sql_expr(str(formula.when))).item() is not True:
                continue
            if formula.where is not None and not frame.is_empty():
                frame = frame.filter(pl.sql_expr(formula.where))
            return formula, frame
        return None, pl.DataFrame()

    def _frame(self, formula: Formula, own: Row) -> pl.DataFrame:
        mine = _frame_of(own)
        if formula.rows is None:
            return self._with_beside(mine, formula)
        if formula.rows == SEGMENT:
            return self.readings.stretches(formula.table, own)
        if formula.rows == MODELLED_INTERVAL:
            return self.readings.modelled(own)
        if formula.rows == VOLUME_STEP:
            return self.readings.volume_steps(own)
        if formula.rows == _LEAF:
            return self.readings.of_grid(own)
        rows, _ = self.rows.of(formula.rows, {name: own[name] for name in formula.by})
        if rows.is_empty() and formula.beside:
            # What no row is summed of may still have something beside it.
            rows = mine.select(formula.by).join(rows, on=list(formula.by), how="left")
        return self._with_beside(rows, formula).with_columns(
            pl.lit(value, pl.Float64).alias(f"{OWN}{name}")
            for name, value in own.items()
            if value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        )

    def _with_beside(self, rows: pl.DataFrame, formula: Formula) -> pl.DataFrame:
        for beside in formula.beside:
            other = self._beside(rows, beside).unique(
                list(beside.on) or None, keep="last", maintain_order=True
            )
            named = other.select(*beside.on, pl.exclude(beside.on).name.prefix(beside.prefix))
            if beside.on:
                rows = rows.join(named, on=list(beside.on), how="left", maintain_order="left")
            else:
                rows = rows.join(named, how="cross", maintain_order="left")
        return rows

    def _beside(self, rows: pl.DataFrame, beside: Beside) -> pl.DataFrame:
        """The rows of the other table that stand beside any of these."""
        keys = rows.select(beside.on).unique(maintain_order=True).to_dicts() if beside.on else [{}]
        found = [self.rows.of(beside.table, key)[0] for key in keys] or [
            self.rows.of(beside.table, {})[0].clear()
        ]
        other = pl.concat(found, how="diagonal_relaxed")
        return other if beside.where is None else other.filter(pl.sql_expr(beside.where))

    def _evaluate(self, step: Step, formula: Formula, frame: pl.DataFrame) -> None:
        step.formula = str(formula)
        step.rows = frame.height if formula.rows is not None else 0
        if frame.is_empty():
            step.notes.append(
                f"missing: nothing stands in the lake that {formula.rows} would be made of"
                if formula.rows in MADE
                else f"missing: no such rows stand in {formula.rows}"
            )
            return
        step.numbers = with_numbers(formula.text, frame)
        if step.value is None:
            step.notes.append("not published: unknown, see its basis")
        else:
            self._compare(step, frame.select(pl.sql_expr(formula.text)).item())

    def _compare(self, step: Step, result: float | None) -> None:
        """Raise LakeError where a formula gives another figure than the table holds."""
        if step.value is None:
            return
        if result is None or abs(result - step.value) > max(
            RELATIVE * abs(step.value), _ADDEND * max(step.rows, 1)
        ):
            raise LakeError(
                f"{step.column} is {step.value!r}, and its formula {step.formula} gives {result!r} ({step.numbers})",
                where=f"{step.table} {json.dumps(dict(step.key), default=str)}",
                remedy="its inputs are not those that it was made of: " + (
                    "; ".join(self.recorded.gone) or "run the night again, and `lepton-etl tables check`"
                ),
            )  # fmt: skip

    def _follow(self, step: Step, formula: Formula, own: Row, frame: pl.DataFrame) -> None:
        """Follow each column of the formula that is made of others, by its largest row or by all."""
        done: set[str] = set()
        for name in formula.names():
            table, column = formula.source_of(name)
            told = formulas_of(table, column) or (table, column) == FILLED or table == _LEAF
            if name in done:
                continue
            done.add(name)
            why = None if told else reason_of(table, column)
            if why:
                step.notes.append(f"{column} of {table}: {why}")
            if not told and (table != formula.rows or name.startswith(OWN)):
                continue
            if column not in frame.columns and table == formula.rows:
                continue
            if table == formula.table and (formula.rows is None or name.startswith(OWN)):
                rows, version = _frame_of(own), step.version
            elif table == formula.rows:
                rows, version = frame, self.rows.version(table)
            else:
                beside = formula.beside_of(name)
                assert beside is not None
                rows, version = self._beside(frame, beside), self.rows.version(table)
            self._parts(step, table, column, rows, version, is_summed=table == formula.rows)

    def _parts(
        self, step: Step, table: str, column: str, rows: pl.DataFrame, version: int | None, *, is_summed: bool
    ) -> None:
        chosen = rows.filter(pl.col(column).is_not_null() & (pl.col(column) != 0))
        if self.choice.nodes and "node_id" in chosen.columns:
            chosen = chosen.filter(pl.col("node_id").is_in(self.choice.nodes))
        ordered = chosen.sort(pl.col(column).abs(), descending=True, maintain_order=True)
        total = ordered[column].sum()
        shown = ordered if self.choice.whole else ordered.head(SHOWN)
        if is_summed:
            step.parts += [
                Part(_key(table, row), column, row[column], row[column] / total if total else None)
                for row in shown.to_dicts()
            ]
        if not (formulas_of(table, column) or (table, column) == FILLED or table == _LEAF):
            return
        # One node after the other: the readings of a few are kept at once.
        by_node = [name for name in ("node_id", "meter_id") if name in ordered.columns]
        followed = ordered.head(1)
        if self.choice.whole:
            followed = ordered.sort(by_node, maintain_order=True) if by_node else ordered
        stored = self._stored(table, followed)
        step.steps += [self._cell(table, row, column, version) for row in stored]

    def _stored(self, table: str, rows: pl.DataFrame) -> list[dict[str, Any]]:
        """Rows without what was put beside them."""
        if table in TABLES:
            extra = ["hour_start"] if "hour_start" in rows.columns else []
            rows = rows.select(
                list(dict.fromkeys((*(n for n in TABLES[table].columns if n in rows.columns), *extra)))
            )
        return rows.select(pl.exclude(f"^{OWN}.*$")).to_dicts()

    # Ends of the walk

    def _imputed(self, step: Step, own: Row) -> None:
        """End at the model's name and version, or at the history that filled the gap, with its inputs."""
        if step.value is None:
            return
        step.notes.append(
            f"{own['imputed_s']:g} s of the hour were not read; one sigma is {own['imputed_sigma_kwh']} kWh"
        )
        if own["imputation_basis"] == MODEL:
            self._by_model(step, own)
        elif own["imputation_basis"] == HISTORY:
            self._by_history(step, own)

    def _by_model(self, step: Step, own: Row) -> None:
        """Ask the recorded version of the model again, by the same inputs."""
        from lepton_etl.models.device_hours import gap_features
        from lepton_etl.models.registry import Registry

        name, day = self.settings.model.name, self.recorded.day
        version = recorded_models(self.recorded.lake, name, Days.of(day)).get(day)
        if version is None:
            step.notes.append(f"missing: ops/stage_run does not say which version of {name} filled it")
            return
        step.made_by = f"model {name} version {version}"
        mine = pl.col("node_id") == own["node_id"]
        intervals = self.rows.of(INTERVAL.name, {"node_id": own["node_id"], "hour_start": own["hour_start"]})[
            0
        ]
        nodes = self.recorded.read(NODE)[0].filter(mine)
        inputs = gap_features(intervals, _frame_of(own), nodes)
        step.rows = intervals.height
        step.parts += [
            Part({"node_id": own["node_id"], "hour_start": own["hour_start"]}, feature, value, None)
            for row in inputs.drop(NODE_HOUR_KEY).to_dicts()
            for feature, value in row.items()
        ]
        try:
            model = Registry.of(self.settings.mlflow).verified_model(name, version=version)
        except (RegistryError, ModelError) as error:
            step.notes.append(f"missing: the model cannot be asked again ({error})")
            return
        power_kwh = float(model.predict(inputs.to_pandas())[0])
        step.formula, gap_s = "predicted_kwh * gap_s / 3600", float(inputs["gap_s"][0])
        step.numbers = f"{power_kwh!r} * {gap_s!r} / 3600"
        self._compare(step, power_kwh * (gap_s / SECONDS_PER_HOUR))

    def _by_history(self, step: Step, own: Row) -> None:
        first = self.recorded.day - timedelta(days=HISTORY_DAYS)
        mine = (pc.field("node_id") == own["node_id"]) & (pc.field("site_id") == own["site_id"])
        before, _ = self.recorded.read(NODE_HOUR, Days(first, self.recorded.day - _DAY), mine)
        hours, _ = self.recorded.read(NODE_HOUR, Days.of(self.recorded.day), mine)
        made = with_imputed(hours, before, None).filter(pl.col("hour_start") == own["hour_start"])
        step.made_by = f"lepton_etl.energy.gaps.fill_gaps of code version {self._code_version()}"
        known = pl.concat([before, hours]).filter(
            pl.col("it_energy_measured_kwh").is_not_null() | pl.col("it_energy_modelled_kwh").is_not_null()
        )
        step.rows = known.height
        gave = made["filled_kwh"].to_list()
        if (
            len(gave) != 1
            or gave[0] is None
            or abs(gave[0] - step.value) > RELATIVE * max(1.0, abs(step.value or 0.0))
        ):
            step.notes.append(
                f"made again of the {known.height} hours that are known of the node it is {gave[0] if gave else None}: "
                "hours before the day have been restated since"
            )
        else:
            step.numbers = repr(gave[0])
            step.notes.append(f"made again of the {known.height} hours that are known of the node: equal")
        near = known.with_columns((pl.col("hour_start") - own["hour_start"]).abs().alias("_far")).sort(
            "_far", "hour_start"
        )
        step.parts += [
            Part(_key(NODE_HOUR.name, row), "it_energy_measured_kwh", row["it_energy_measured_kwh"], None)
            for row in (near if self.choice.whole else near.head(SHOWN)).to_dicts()
        ]

    def _code_version(self) -> str:
        row = self.recorded.lake.read(NIGHT, Days.of(self.recorded.day)).to_dicts()
        return str(row[0]["code_version"]) if row else "unknown"

    def _modelled(self, step: Step, own: Row, judged: pl.DataFrame) -> None:
        policy = self.readings.of_day
        step.made_by = f"{MADE[MODELLED_INTERVAL]} by factors node_power, code version {self._code_version()}"
        if policy.model is not None:
            step.notes.append(f"model: {policy.model}")
        step.notes += [f"point of the line: {flag}" for flag in judged["flag"].to_list()]
        key = {name: own[name] for name in ("site_id", "cluster_id", "node_id", "interval_start")}
        rows, version = self.rows.of(INTERVAL.name, key)
        parts = rows.filter(
            pl.col("device_id").str.contains(r"^(cpu|dram|gpu)"), pl.col("energy_kwh").is_not_null()
        )
        self._parts(step, INTERVAL.name, "energy_kwh", parts, version, is_summed=True)

    def _said_of(self, table: str, own: Row) -> list[str]:
        what = [f"energy_source {own['energy_source']}, sensor class {own['sensor_class'] or 'unknown'}"]
        if own.get("flags"):
            what.append(f"flags: {', '.join(own['flags'])}")
        if own["energy_source"] == "psu_output":
            policy = self.readings.of_day
            what.append(f"the supplies' output and their loss by factors node_power: {policy.model}")
        return what


def with_numbers(text: str, frame: pl.DataFrame) -> str:
    """Return an expression with its sums and columns as numbers, such as `1.5 + 2.0 / 4.0`; the unknown is `null`."""
    found, at = "", 0
    while match := _AGGREGATE.search(text, at):
        end, depth = match.end(), 1
        while depth:
            depth += (text[end] == "(") - (text[end] == ")")
            end += 1
        value = frame.select(pl.sql_expr(text[match.start() : end])).item()
        found += _named(text[at : match.start()], frame) + _number(value)
        at = end
    return found + _named(text[at:], frame)


def _named(text: str, frame: pl.DataFrame) -> str:
    return re.sub(r"\b[a-z_][a-z0-9_]*\b", lambda name: _number(frame[name[0]][0]), text)


def _number(value: Any) -> str:
    return "null" if value is None else repr(value)


def _key(table: str, row: Row) -> dict[str, Any]:
    if table in TABLES:
        names = TABLES[table].key or ("node_id", "device_id", "quantity", "sensor", "reading_time")
    elif table == JOB_HOUR:
        names = (*RUN_KEY, "node_id", "hour_start")
    else:
        names = ("site_id", "meter_id", "hour_start")
    if table == ENERGY_LEDGER.name:
        # An account that no formula makes says itself what it rests on.
        names = (*names, "account_basis", "detail")
    return {name: row[name] for name in names if row.get(name) is not None}


def _frame_of(row: Row) -> pl.DataFrame:
    """One row as a frame; what is unknown in it is a number that is unknown."""
    return pl.DataFrame([row], infer_schema_length=None).with_columns(cs.by_dtype(pl.Null).cast(pl.Float64))
