"""What collectors of the field really wrote, through bronze: each folder's expect.json says what is right.

The folders lie beside those of LEPTON_REAL_DATA, in `fieldcases`; their words are those of expect.json alone. All cases
that read files are sources of one site and one batch, as on a night.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from functools import reduce
from pathlib import Path
from typing import Any, Final

import polars as pl
import pytest
import structlog
import yaml

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.logs import FILE, JOB, READING, REJECT
from lepton_etl.schema.tables import TABLES
from pipelines import bronze
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night
from pipelines.stage import StageContext
from tests.conftest import real_data

CASES: Final = real_data().parent / "fieldcases"
DAY: Final = date(2025, 6, 3)
# Cases that are not right yet, one a line: a case that comes right turns its test red until it leaves the list.
OPEN: Final = frozenset((Path(__file__).parent / "field_cases_open.txt").read_text().split())

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not CASES.is_dir(), reason="LEPTON_REAL_DATA has no fieldcases beside it"),
]

Words = Mapping[str, Any]
ALL: Final[dict[str, Words]] = {
    path.parent.name: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(CASES.glob("*/expect.json"))
}
NIGHTS: Final = [name for name, case in ALL.items() if case.get("kind") == "night"]
READ: Final = [name for name in ALL if name not in NIGHTS]


def outcomes(case: Words) -> list[list[Words]]:
    """The parts of a case, each with the outcomes of which one must be met; what one does not say its holder says."""
    how = ("format", "settings", "node_id", "files", "path_time")

    def within(inner: Words, outer: Words) -> Words:
        return {**{word: outer[word] for word in how if word in outer}, **inner}

    parts = [within(part, case) for part in case.get("parts", [case])]
    return [[part, *(within(other, part) for other in part.get("alternatives", ()))] for part in parts]


def source_name(name: str, part: int, choice: int) -> str:
    return f"f{name[:2]}-{part}-{choice}"


def laid(site: Path, name: str, outcome: Words, source: str) -> dict[str, Any]:
    """Lay the files of an outcome down as its collector names them; return the source that reads them."""
    stamp = outcome.get("path_time", f"{DAY}T0000")
    for number, file in enumerate(outcome["files"]):
        stem, ending = Path(file).stem, Path(file).suffix
        if not re.fullmatch(r".+-\d{8}T\d{4}", stem):
            stem = outcome["node_id"] or stem
            stem += f"-{stamp.replace('-', '')}" if stamp else ""
        target = site / "landing" / source / str(number) / f"{stem}{ending}"
        target.parent.mkdir(parents=True)
        shutil.copyfile(CASES / name / file, target)
    found: dict[str, Any] = {"name": source, "format": outcome["format"], "path": f"landing/{source}/*/*"}
    if outcome["node_id"]:
        found["node_id_from_path"] = r"(?P<node_id>[^/]+?)(?:-\d{8}T\d{4})?\.\w+$"
    if stamp:
        found["time_from_path"] = r"-(?P<time>\d{8}T\d{4})\.\w+$"
    return found | outcome["settings"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Table, pl.DataFrame], dict[str, str]]:
    """The tables of bronze after one batch of all cases; sources whose settings are refused, with the reason."""
    site = tmp_path_factory.mktemp("field")
    sources, refused, nodes = [], {}, set[str]()
    for name in READ:
        nodes |= {ALL[name]["node_id"], *ALL[name].get("nodes", ())} - {None}
        for part, choices in enumerate(outcomes(ALL[name])):
            for choice, outcome in enumerate(choices):
                found = laid(site, name, outcome, source_name(name, part, choice))
                try:
                    _settings(site, [found], nodes)
                    sources.append(found)
                except ConfigurationError as error:
                    refused[found["name"]] = str(error)
    context = StageContext(
        Lake(site / "lake"), _settings(site, sources, nodes), Days.of(DAY), "test", structlog.get_logger()
    )
    bronze.run(context)
    return {table: context.lake.read(table) for table in (READING, JOB, REJECT, FILE)}, refused


def _settings(site: Path, sources: list[dict[str, Any]], nodes: set[str]) -> Any:
    rows = [f"{node},c1,3000,2010-01-01" for node in sorted(nodes)]
    (site / "inventory.csv").write_text("\n".join(["node_id,cluster_id,rated_power_w,valid_from", *rows, ""]))
    keys = {
        "site": {"site_id": "field"},
        "lake": {"root": "lake"},
        "fleet": {"inventory": "inventory.csv"},
        "sources": sources,
    }
    (site / "site.yaml").write_text(yaml.safe_dump(keys))
    return load(site / "site.yaml")


COLUMNS: Final = {
    "quantity": "quantity",
    "device": "device_id",
    "node": "node_id",
    "point": "point",
    "statistic": "statistic",
}


def fitting(rows: pl.DataFrame, item: Words) -> pl.DataFrame:
    """The readings that an item names: texts in full, values to a millionth, times to a millisecond."""
    asked = {column: item[word] for word, column in COLUMNS.items() if item.get(word) is not None}
    # Python's patterns look ahead, those of polars do not.
    for column, pattern in asked.items():
        fits = [value for value in rows[column].unique() if re.fullmatch(pattern, value or "")]
        rows = rows.filter(pl.col(column).is_in(fits, nulls_equal=True))
    if item.get("value") is not None:
        rows = rows.filter(_near(pl.col("value"), item["value"]))
    if item.get("window_s") is not None:
        rows = rows.filter((pl.col("window_s") - item["window_s"]).abs() <= 1e-3)
    if item.get("time") is not None:
        rows = rows.filter(_at(pl.col("reading_time"), item["time"]))
    return rows


def _near(column: pl.Expr, wanted: Any) -> pl.Expr:
    each = wanted if isinstance(wanted, list) else [wanted]
    hits = [(column.cast(pl.Float64) - value).abs() <= 1e-6 * max(abs(value), 1e-3) for value in each]
    return reduce(lambda left, right: left | right, hits)


def _at(column: pl.Expr, stamp: str) -> pl.Expr:
    return (column - pl.lit(datetime.fromisoformat(stamp))).abs() <= timedelta(milliseconds=1)


def fitting_jobs(rows: pl.DataFrame, item: Words) -> pl.DataFrame:
    for column, wanted in item.items():
        if column == "count":
            continue
        cell = pl.col(column)
        if wanted is None:
            rows = rows.filter(cell.is_null() | (cell.cast(pl.String) == ""))
        elif column.endswith("_time"):
            rows = rows.filter(_at(cell, wanted))
        elif isinstance(wanted, str):
            rows = rows.filter(cell.fill_null("").cast(pl.String).str.contains(f"^(?:{wanted})$"))
        else:
            rows = rows.filter(_near(cell, wanted))
    return rows


def wrong_count(found: int, wanted: Any) -> bool:
    if wanted is None:
        return found == 0
    least, most = wanted if isinstance(wanted, list) else (wanted, wanted)
    return not least <= found <= most


def faults(outcome: Words, rows: Mapping[Table, pl.DataFrame]) -> Iterator[str]:
    """Yield what of a source's rows is not as its outcome says."""
    readings, jobs, rejects, files = (rows[table] for table in (READING, JOB, REJECT, FILE))
    if not files["records"].sum():
        yield "no record of it is counted"
    counted = pl.sum_horizontal("readings", "jobs", "rejects", "duplicates", "ignored")
    if files.filter(pl.col("records") != counted).height:
        yield "its records do not add up"
    if rejects["reason"].str.starts_with("decoder_error").any():
        yield f"its decoder failed: {rejects['raw_text'].to_list()}"
    for item in outcome.get("must", ()):
        found = fitting(readings, item)
        devices = found.select("node_id", "device_id").n_unique()
        if (
            wrong_count(found.height, item.get("count"))
            or devices != item.get("devices", devices)
            or found["node_id"].n_unique() != item.get("nodes", found["node_id"].n_unique())
        ):
            yield f"must be: {item}, found {found.select('node_id', 'device_id', 'value', 'reading_time').rows()}"
    for item in outcome.get("must_not", ()):
        if fitting(readings, item).height:
            yield f"must not be: {item}"
    for item in outcome.get("must_jobs", ()):
        if wrong_count(fitting_jobs(jobs, item).height, item.get("count")):
            yield f"jobs must be: {item}"
    yield from _wrong_rejects(outcome, rejects, files)


def _wrong_rejects(outcome: Words, rejects: pl.DataFrame, files: pl.DataFrame) -> Iterator[str]:
    counts, most = dict(rejects["reason"].value_counts().iter_rows()), outcome.get("max_rejects")
    if not outcome.get("min_rejects", 0) <= rejects.height <= (rejects.height if most is None else most):
        yield f"rejects: {counts}"
    hint = outcome.get("reject_reason_hint")
    if hint is None:
        if most is None and "unknown_format" in counts:
            yield "nothing of it was read"
        return
    ignored = [entry[1] for text in files["ignored_detail"].drop_nulls() for entry in json.loads(text)]
    reasons = [*counts, *rejects["raw_text"].drop_nulls(), *files["reason"].drop_nulls(), *ignored]
    if not any(re.search(hint, reason) for reason in reasons):
        yield f"no reason says {hint}: {counts}"


def verdict(name: str, tables: Mapping[Table, pl.DataFrame], refused: Mapping[str, str]) -> list[str]:
    """What is wrong with a case: of each part the faults of its first outcome, where no outcome is met."""
    wrong = []
    for part, choices in enumerate(outcomes(ALL[name])):
        tried = []
        for choice, outcome in enumerate(choices):
            source = source_name(name, part, choice)
            rows = {table: found.filter(source_name=source) for table, found in tables.items()}
            tried.append([refused[source]] if source in refused else list(faults(outcome, rows)))
        wrong += tried[0] if all(tried) else []
    return wrong


def _params(names: list[str]) -> list[Any]:
    still_wrong = pytest.mark.xfail(strict=True, reason="not mended yet", raises=AssertionError)
    return [pytest.param(name, marks=[still_wrong] if name in OPEN else []) for name in names]


@pytest.mark.parametrize("name", _params(READ))
def test_a_case_is_read_right_or_says_why_not(
    name: str, loaded: tuple[dict[Table, pl.DataFrame], dict[str, str]]
) -> None:
    assert verdict(name, *loaded) == []


@pytest.mark.parametrize("name", _params(NIGHTS))
def test_a_night_ends_well(name: str, tmp_path: Path) -> None:
    case = ALL[name]
    site = tmp_path / name
    shutil.copytree(CASES / name, site)
    settings = load(site / case["config"])
    days = Days.of(date.fromisoformat(case["date"]))
    for stage in case["stages"]:
        night = run_night(InlineEngine(), settings, days, stage)
        assert night.exit_code == 0, night.message
    lake = Lake.of(settings)
    assert [table for table in case["no_rows"] if lake.read(TABLES[table]).height] == []


def test_the_list_of_open_cases_names_cases() -> None:
    assert set(ALL) >= OPEN
