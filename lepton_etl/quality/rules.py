"""Rule files of conf/expectations: what a table must fulfil beyond the field dictionary, as data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lepton_etl.conf_files import conf_path
from lepton_etl.errors import ConfigurationError
from lepton_etl.lake.tables import TABLES
from lepton_etl.quality.outcome import Severity

RULES_FOLDER: Final = conf_path("expectations")


def _declared(name: str) -> str:
    if name not in TABLES:
        raise ValueError(f"not a declared table; one of {', '.join(TABLES)}")
    return name


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Model):
    """One rule, of one of two kinds.

    `every_row`: a Spark SQL condition that each row fulfils, or the share `mostly` of them; `where` picks the
    rows it speaks of. A condition that is null (something unknown) is not counted: the unknown passes, as in
    the constraints.
    `figure`: a Spark SQL aggregate over the slice, held between `at_least` and `at_most`; null is not judged.
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
