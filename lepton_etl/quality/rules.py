"""Make the checks of a table: the field dictionary's and those of conf/expectations.

The dictionary's are required columns, bounds, sets and the key. A check is one aggregate over the slice and
the range it must lie in, so all checks of a table cost one pass.
Rule files hold what a table must fulfil beyond the field dictionary; outcomes are for the operator and the
run record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lepton_etl.conf_files import conf_path
from lepton_etl.errors import ConfigurationError
from lepton_etl.schema.declare import Field as Column
from lepton_etl.schema.declare import Table
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.types import constraint

Severity = Literal["fail", "warn"]


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """One expectation, judged.

    `observed` and `expected` are for a person; `examples` are keys of rows that break it (at most three).
    """

    table: str
    check: str
    column: str | None
    severity: Severity
    passed: bool
    observed: str
    expected: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        rows = f", e.g. {'; '.join(self.examples)}" if self.examples else ""
        return f"{self.table}: {self.check}: {self.observed}, expected {self.expected}{rows}"


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """Everything the gate judged; rows by table; the front page of the Data Docs (None: not built)."""

    outcomes: tuple[CheckOutcome, ...]
    rows: Mapping[str, int]
    docs: Path | None

    @property
    def failures(self) -> tuple[CheckOutcome, ...]:
        """What stops publication."""
        return tuple(o for o in self.outcomes if not o.passed and o.severity == "fail")

    @property
    def warnings(self) -> tuple[CheckOutcome, ...]:
        """What the operator should know."""
        return tuple(o for o in self.outcomes if not o.passed and o.severity == "warn")


RULES_FOLDER: Final = conf_path("expectations")


def _declared(name: str) -> str:
    if name not in TABLES:
        raise ValueError(f"not a declared table; one of {', '.join(TABLES)}")
    return name


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Model):
    """One rule, of one of two kinds.

    `every_row`: a SQL condition that each row fulfils, or the share `mostly` of them; `where` picks the
    rows it speaks of. A condition that is null (something unknown) is not counted: the unknown passes, as in
    the constraints.
    `figure`: a SQL aggregate over the slice, held between `at_least` and `at_most`; null is not judged.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60, description="Name in messages.")
    severity: Severity = Field(description="fail stops before gold; warn is a note to the operator.")
    says: str = Field(min_length=1, description="The rule in a sentence, for a person.")
    column: str | None = Field(None, description="The column it is about.")
    every_row: str | None = Field(None, description="Condition of a row.")
    where: str | None = Field(None, description="Rows that every_row speaks of; default all.")
    mostly: float = Field(1.0, gt=0, le=1, description="Share of the rows that must fulfil every_row.")
    figure: str | None = Field(None, description="Aggregate over the slice.")
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if (self.every_row is None) == (self.figure is None):
            raise ValueError("give either every_row or figure")
        bounded = self.at_least is not None or self.at_most is not None
        if self.figure is not None and not bounded:
            raise ValueError("a figure needs at_least or at_most")
        if self.figure is not None and {"where", "mostly"} & self.model_fields_set:
            raise ValueError("where and mostly belong to every_row")
        if self.every_row is not None and bounded:
            raise ValueError("at_least and at_most belong to figure")
        return self


class TableRules(_Model):
    """One file: the table, whether it must hold rows, its rules."""

    table: Annotated[str, AfterValidator(_declared)]
    required: bool = Field(description="Whether the slice must hold rows.")
    rules: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _fit_the_table(self) -> Self:
        columns = TABLES[self.table].columns
        names = [rule.name for rule in self.rules]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rules are called {', '.join(twice)}")
        for rule in self.rules:
            if rule.column is not None and rule.column not in columns:
                raise ValueError(f"rule {rule.name}: {self.table} has no column {rule.column}")
        return self


def load_rules(folder: Path | None = None) -> Mapping[str, TableRules]:
    """Table -> its rules, from every *.yaml of the folder (default: conf/expectations).

    Raises ConfigurationError naming file, key and value. A table without a file is no error here: the
    gate closes and names it.
    """
    place = folder or RULES_FOLDER
    if not place.is_dir():
        raise ConfigurationError(
            "the folder of the expectations does not exist",
            where=str(place),
            remedy="mend quality.expectations",
        )
    found: dict[str, TableRules] = {}
    for file in sorted(place.glob("*.yaml")):
        rules = _read(file)
        if rules.table in found:
            raise ConfigurationError(
                f"key table = {rules.table!r}: another file speaks of this table",
                where=str(file),
                remedy="merge the two",
            )
        found[rules.table] = rules
    return found


def _read(file: Path) -> TableRules:
    try:
        return TableRules.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(
            f"cannot be read: {error}", where=str(file), remedy="mend the file"
        ) from error
    except ValidationError as error:
        raise ConfigurationError(
            "; ".join(_mistakes(error)), where=str(file), remedy="see docs/quality.md"
        ) from error


def _mistakes(error: ValidationError) -> list[str]:
    """One text a mistake: key, value, what is allowed."""
    texts = []
    for mistake in error.errors(include_url=False):
        key = ".".join(str(part) for part in mistake["loc"]) or "file"
        what = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            what = "no such key"
        scalar = isinstance(mistake["input"], str | int | float) and mistake["type"] != "missing"
        shown = f" = {mistake['input']!r}" if scalar else ""
        texts.append(f"key {key}{shown}: {what}")
    return texts


KEY_UNIQUE = "key_is_unique"
NOT_EMPTY = "not_empty"


@dataclass(frozen=True, slots=True)
class Check:
    """`sql` is a SQL aggregate whose value lies in [low, high] (None: open); null is not judged.

    `bad` is the condition of a row that breaks the check, None where no single row does. A check of [0, 0]
    counts such rows.
    """

    name: str
    column: str | None
    severity: Severity
    says: str
    sql: str
    low: float | None
    high: float | None
    bad: str | None = None

    @property
    def counts_rows(self) -> bool:
        return self.high == 0 and self.low == 0

    @property
    def expected(self) -> str:
        """What the value should be, for a person."""
        if self.counts_rows:
            return f"none: {self.says}"
        bounds = [f"at least {self.low:g}"] if self.low is not None else []
        bounds += [f"at most {self.high:g}"] if self.high is not None else []
        return f"{' and '.join(bounds)}: {self.says}"


def checks_of(table: Table, rules: TableRules) -> tuple[Check, ...]:
    """Every check of the table; the dictionary's own are all `fail`."""
    return (
        *_row_count(table, rules),
        *(_known(name) for name in table.required),
        *(check for field in table.fields for check in _within(field)),
        *_unique(table),
        *(_of_rule(rule) for rule in rules.rules),
    )


def _row_count(table: Table, rules: TableRules) -> Iterator[Check]:
    if rules.required:
        yield Check(NOT_EMPTY, None, "fail", f"{table.name} holds rows of the days", "count(*)", 1, None)


def _known(column: str) -> Check:
    bad = f"{column} IS NULL"
    return _counting(f"{column}_is_known", column, "fail", f"{column} is never null", bad)


def _within(field: Column) -> Iterator[Check]:
    """Bounds or set, in the constraint's own words: NaN and infinity break it, the unknown does not."""
    condition = constraint(field)
    if condition is None:
        return
    if field.one_of:
        yield _counting(
            f"{field.name}_is_in_set", field.name, "fail", f"{field.name} is one of the dictionary's names",
            f"NOT ({condition})",
        )  # fmt: skip
        return
    unit = f" {field.unit}" if field.unit else ""
    low = "-inf" if field.ge is None else f"{field.ge:g}"
    top = "inf" if field.le is None else f"{field.le:g}"
    says = f"{field.name} lies in {low} .. {top}{unit}, NaN does not"
    yield _counting(f"{field.name}_is_in_bounds", field.name, "fail", says, f"NOT ({condition})")


def _unique(table: Table) -> Iterator[Check]:
    if table.key:
        # Its value comes from a second aggregate (profile.py): a distinct count in the first would be slower.
        says = f"one row for each {', '.join(table.key)}"
        yield Check(KEY_UNIQUE, None, "fail", says, "", 0, 0)


def _of_rule(rule: Rule) -> Check:
    if rule.figure is not None:
        return Check(
            rule.name, rule.column, rule.severity, rule.says, f"({rule.figure})", rule.at_least, rule.at_most
        )
    where = f"({rule.where})" if rule.where else "TRUE"
    bad = f"{where} AND NOT ({rule.every_row})"
    if rule.mostly == 1:
        return _counting(rule.name, rule.column, rule.severity, rule.says, bad)
    judged = f"count_if({where} AND ({rule.every_row}) IS NOT NULL)"
    share = f"try_divide(count_if({where} AND ({rule.every_row})), {judged})"
    says = f"share of rows in which {rule.says}"
    return Check(rule.name, rule.column, rule.severity, says, share, rule.mostly, None, bad)


def _counting(name: str, column: str | None, severity: Severity, says: str, bad: str) -> Check:
    return Check(name, column, severity, says, f"count_if({bad})", 0, 0, bad)
