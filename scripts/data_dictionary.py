"""Write docs/data-dictionary.md from the field dictionary and the declared tables.

python scripts/data_dictionary.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from lepton_etl.schema.common import QUANTITIES
from lepton_etl.schema.declare import Field, Table
from lepton_etl.schema.formulas import formulas_of, told_columns
from lepton_etl.schema.privacy import privacy_class
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.untold import ALL_COLUMNS, REASONS

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "data-dictionary.md"
_LONG_SET: Final = 12


def page() -> str:
    """The whole page as Markdown."""
    parts = [
        "# Data dictionary",
        "Made from `lepton_etl/schema` by `scripts/data_dictionary.py`; "
        "do not edit by hand.\n"
        "A column means the same wherever it stands. Times are UTC; ratios run from 0 to 1; null is unknown, "
        "never zero. Columns marked \\* are never null.\n"
        "The class says who may see a column (lepton_etl/schema/privacy.py, [privacy.md](privacy.md)): `public`, "
        "`internal` (who works with the site), `personal` (leads to a person, or may).",
        "## Tables",
        "| table | one row is |\n| --- | --- |\n"
        + "\n".join(f"| [{t.name}](#{_anchor(t)}) | {t.grain} |" for t in TABLES.values()),
        *(_table(table) for table in TABLES.values()),
        "## Quantities",
        "What a reading (`bronze/reading`, column `quantity`) may be, its canonical unit and its bounds.",
        "| quantity | unit | bounds |\n| --- | --- | --- |\n"
        + "\n".join(f"| {q.name} | {q.unit} | {q.ge:g} .. {q.le:g} |" for q in QUANTITIES.values()),
    ]
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    facts = [
        f"- Key: {', '.join(table.key) or 'none, rows are only appended'}",
        f"- Partition: {table.partition or 'none'}",
        f"- Owner: {table.owner}",
        f"- Kept: {'for good' if table.retention_days is None else f'{table.retention_days} days'}",
        *(f"- Note: {warning}" for warning in table.warnings),
    ]
    rows = [_row(field, field.name in table.required) for field in table.fields]
    head = "| column | class | type | unit | bounds | meaning |\n| --- | --- | --- | --- | --- | --- |"
    made = [
        f"- `{column}` = `{formula}`{f' (where {formula.when})' if formula.when else ''}"
        for column in told_columns(table.name)
        for formula in formulas_of(table.name, column)
    ]
    heading = "How columns of it are made, as [`lepton-etl trace`](lineage.md) computes them:"
    how = [heading, "\n".join(made)] if made else []
    untold = [
        f"- {', '.join(f'`{name}`' for name in columns) if columns != ALL_COLUMNS else 'its numbers'}: {reason}"
        for reason, tables in REASONS.items()
        if (columns := tables.get(table.name)) and table.name.startswith("gold/")
    ]
    how += ["Without a formula:", "\n".join(untold)] if untold else []
    return "\n\n".join(
        [f"### {table.name}", f"One row is {table.grain}.", "\n".join(facts), "\n".join([head, *rows]), *how]
    )


def _row(field: Field, required: bool) -> str:
    name = f"{field.name} \\*" if required else field.name
    cells = (name, privacy_class(field), field.type, field.unit or "", _bounds(field), field.description)
    return f"| {' | '.join(cells)} |"


def _bounds(field: Field) -> str:
    if len(field.one_of) > _LONG_SET:
        return "see Quantities"
    if field.one_of:
        return ", ".join(field.one_of)
    if field.ge is None and field.le is None:
        return ""
    low = "" if field.ge is None else f"{field.ge:g}"
    return f"{low} .. {'' if field.le is None else f'{field.le:g}'}"


def _anchor(table: Table) -> str:
    # GitHub's anchor of a heading: lower case, slashes dropped.
    return table.name.replace("/", "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.name}: {len(TABLES)} tables")
