"""Read the rule files of conf/expectations: what a table must fulfil beyond the field dictionary.

Outcomes are for the operator and the run record.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lepton_etl.conf_files import conf_path
from lepton_etl.errors import ConfigurationError
from lepton_etl.schema.tables import TABLES

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


# What Great Expectations imports where it is installed, for data that lies elsewhere: a seventh of its import.
_OF_OTHER_SOURCES: Final = ("pyspark", "boto3", "botocore", "google.cloud")
RULES_FOLDER: Final = conf_path("expectations")


def _declared(name: str) -> str:
    if name not in TABLES:
        raise ValueError(f"not a declared table; one of {', '.join(TABLES)}")
    return name


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Model):
    """One rule, of one of three kinds.

    `every_row`: a SQL condition that each row fulfils, or the share `mostly` of them; `where` picks the
    rows it speaks of. A condition that is null (something unknown) is not counted: the unknown passes, as in
    the constraints.
    `figure`: a SQL aggregate over the slice, held between `at_least` and `at_most`; null is not judged.
    `expectation`: one of Great Expectations' own by its type, with `kwargs`, on the columns of the table.
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
    expectation: str | None = Field(
        None, description="Type of an expectation, e.g. expect_column_values_to_match_regex."
    )
    kwargs: dict[str, Any] = Field(default={}, description="Arguments of the expectation.")

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if sum(kind is not None for kind in (self.every_row, self.figure, self.expectation)) != 1:
            raise ValueError("give either every_row or figure or expectation")
        bounded = self.at_least is not None or self.at_most is not None
        if self.figure is not None and not bounded:
            raise ValueError("a figure needs at_least or at_most")
        if self.every_row is None and {"where", "mostly"} & self.model_fields_set:
            raise ValueError("where and mostly belong to every_row")
        if self.figure is None and bounded:
            raise ValueError("at_least and at_most belong to figure")
        if self.expectation is None and self.kwargs:
            raise ValueError("kwargs belong to expectation")
        if self.expectation is not None:
            _known_expectation(self.expectation, self.kwargs)
        return self

    @property
    def sql(self) -> str:
        """What the rule computes: of a row whether it holds (null: not judged), or the figure of the slice."""
        if self.figure is not None:
            return f"({self.figure})"
        return f"CASE WHEN {self.where or 'TRUE'} THEN ({self.every_row}) END"


def _known_expectation(kind: str, kwargs: dict[str, Any]) -> None:
    """Raise ValueError where Great Expectations does not know the type or refuses an argument."""
    great_expectations()
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    try:
        ExpectationConfiguration(type=kind, kwargs=kwargs).to_domain_obj()
    except Exception as error:
        raise ValueError(f"expectation {kind}: {str(error).splitlines()[0]}") from error


def great_expectations() -> Any:
    """Import Great Expectations, which takes seconds, so that nothing about a site's data leaves the site."""
    # Read at the import.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with _as_if_not_installed(_OF_OTHER_SOURCES):
        import great_expectations as gx

    return gx


@contextmanager
def _as_if_not_installed(names: Iterable[str]) -> Iterator[None]:
    """Let imports of packages fail meanwhile, as Python does for None; what is imported already stays."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


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
