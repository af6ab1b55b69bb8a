"""The page says what the tables say: each of its figures, and each of its reasons, is looked up in the lake.

A figure names its table, rows, column and how it is made of them (docs/report.md); here each is made anew from the
tables. Text with a digit in it that is no such figure is one of a short list of words.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.tables import Lake
from lepton_etl.models.registry import Registry
from lepton_etl.models.stored import Version
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.tables import TABLES
from lepton_etl.simulator.plan import ClusterPlan, Fault, FleetPlan
from lepton_etl.simulator.simulate import simulate
from pipelines.engine import InlineEngine
from pipelines.nightly import Night, run_night
from tests.nights import without
from tests.pages import Figure, Page

DAY, NEXT_DAY = date(2025, 6, 3), date(2025, 6, 4)
TWO_DAYS = Days(DAY, NEXT_DAY)
# What may stand on a page with a digit and is no figure of the lake.
WORDS = (
    "90 %", "99th percentile", "p99", "20 days", "at least 10 %", "Vega-Lite (BSD-3-Clause)", "ISO/IEC 30134", "kgco2e",
    "gco2e",
)  # fmt: skip
# Sections and elements that hold dates, versions and definitions, no figures.
WITHOUT_FIGURES = ("meaning",)
# What the run itself has cost is counted by the process that writes the page.
WITHOUT_TABLES = ("footprint",)


@dataclass(frozen=True)
class Site:
    """A site with its lake, and the page of each range of days that was asked for."""

    folder: Path
    lake: Lake
    config: Path
    left_out: tuple[str, ...] = ()
    found: dict[str, Any] = field(default_factory=dict)

    def night(self, days: Days, stage: str | None = None) -> Night:
        with without(*self.left_out):
            night = run_night(InlineEngine(), load(self.config), days, stage)
        assert night.exit_code == Exit.DONE, night.message
        self.found.clear()
        return night

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What a page of hundreds of figures asks for again and again, until the next night."""
        if name not in self.found:
            self.found[name] = find()
        return self.found[name]

    def table(self, name: str) -> pl.DataFrame:
        table: pl.DataFrame = self.once(name, lambda: self.lake.read(TABLES[name]))
        return table

    @cached_property
    def registry(self) -> Registry:
        return Registry.of(load(self.config).mlflow)

    def page(self, days: Days) -> Page:
        name = str(days.start) if days.count == 1 else f"{days.start}_{days.end}"
        return Page((self.folder / "report" / name / "index.html").read_text(encoding="utf-8"))


def make_site(
    folder: Path,
    days: Days,
    *,
    late_node: str | None = None,
    faults: tuple[Fault, ...] = (),
    left_out: tuple[str, ...] = (),
) -> Site:
    """Nights of a small fleet and a page of all days; the first day's log of a late node is held back in `late`."""
    clusters = (
        ClusterPlan(cluster_id="c01", nodes=3, hardware_class="cpu-2s"),
        ClusterPlan(cluster_id="c02", nodes=3, hardware_class="gpu-400"),
    )
    plan = FleetPlan(
        seed=7,
        first_date=days.start,
        days=days.count,
        clusters=clusters,
        faults=faults,
        # A page has as many figures of sparse logs.
        bmc_period_s=300,
        gpu_period_s=300,
    )
    simulate(plan, folder)
    with (folder / "config.yaml").open("a", encoding="utf-8") as config:
        # A learnt model, whatever it is: which one is chosen is tested in tests/unit/models.
        config.write("model: {trees: 10, slim: false, candidates: [linear, forest]}\n")
    (folder / "late").mkdir()
    for log in folder.glob(f"landing/ipmi/{late_node}-{days.start}*"):
        log.rename(folder / "late" / log.name)
    site = Site(folder, Lake(load(folder / "config.yaml").lake.root), folder / "config.yaml", left_out)
    for day in days:
        site.night(Days.of(day))
    site.night(days, "report")
    return site


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Site:
    faults = (Fault.GAPS, Fault.DUPLICATES, Fault.BAD_LINES, Fault.TRUNCATED_GZIP)
    return make_site(tmp_path_factory.mktemp("two"), TWO_DAYS, faults=faults)


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site whose meters and intensity are complete, with a node of whose first day nothing is read.

    What its pages would say of gate and model the pages of `two_days` do.
    """
    left_out = ("gate", "train", "score")
    return make_site(tmp_path_factory.mktemp("blind"), TWO_DAYS, late_node="c01n0002", left_out=left_out)


# How a figure is made of the rows that it names: the test's own reading of docs/report.md.


def rows_of(site: Site, figure: Figure, page: Page) -> pl.DataFrame:
    where = dict(figure.where)
    if figure.table.startswith("chart "):
        return pl.DataFrame(
            page.specs[figure.table.removeprefix("chart ")]["datasets"]["rows"], infer_schema_length=None
        )
    if figure.table == "mlflow errors.json":
        return errors(site, where, figure.how)
    if figure.table == "mlflow parity.json":
        version = where.pop("version")
        rows = site.once(
            f"groups of {version}", lambda: pl.DataFrame(site.registry.groups_of(version_of(site, version)))
        )
        return rows.filter(**where)
    days = where.pop("files of", None)
    is_of_files = figure.table.startswith("bronze/")
    found = of_files(site, figure.table, str(days)) if is_of_files else site.table(figure.table)
    for column, value in where.items():
        found = found.filter(matches(found, column, value))
    return found


def matches(frame: pl.DataFrame, column: str, value: Any) -> pl.Expr:
    if value is None:
        return pl.col(column).is_null()
    said = pl.col(column).cast(pl.String)
    if isinstance(value, list):
        return said.is_in([str(one) for one in value])
    if frame.schema[column] == pl.Date and ".." in value:
        first, last = value.split("..")
        return said.is_between(pl.lit(first), pl.lit(last))
    return said == str(value)


def of_files(site: Site, table: str, days: str) -> pl.DataFrame:
    """Rows of files whose readings touch the days, or whose path names one of them."""
    first, last = (days.split("..") * 2)[:2]
    files = site.table(FILE.name)
    begin, end = pl.col("first_reading_time").dt.date(), pl.col("last_reading_time").dt.date()
    touch = (begin <= date.fromisoformat(last)) & (end >= date.fromisoformat(first))
    named = (
        pl.col("path")
        .str.extract_all(r"\d{4}-\d{2}-\d{2}")
        .list.last()
        .is_between(pl.lit(first), pl.lit(last))
    )
    files = files.filter(touch.fill_null(value=False) | (begin.is_null() & named))
    if table == "bronze/reject":
        return site.table(table).join(files.select("path", "file_id"), on=["path", "file_id"], how="semi")
    if table == "bronze/file ignored_detail":
        cells = [
            {"source_name": source, "sensor": sensor, "reason": reason, "records": count}
            for source, detail in files.filter(state="loaded")
            .select("source_name", "ignored_detail")
            .iter_rows()
            for sensor, reason, count in json.loads(detail or "[]")
        ]
        return pl.DataFrame(cells)
    return files


def version_of(site: Site, version: str) -> Version:
    name = load(site.config).model.name
    return next(one for one in site.registry.versions(name) if one.version == version)


def errors(site: Site, where: Mapping[str, Any], how: str) -> pl.DataFrame:
    """The record of the training run that the page names; of the best rival, that of the same servers and hours."""
    version = where["version"]
    rows = site.once(
        f"errors of {version}",
        lambda: pl.DataFrame(site.registry.errors_of(version_of(site, version)), infer_schema_length=None),
    )
    server = where.get("server") or where["node_id"]
    node, hours = "(all)" if server == "all servers" else server, where.get("hours_kind") or where["hours"]
    model = where["model"]
    if how == "of the best rival":
        rivals = rows.filter(pl.col("model").is_in(["model", "champion"]).not_())
        of_servers = rivals.filter(pl.col("node_id") != "(all)")["model"].unique()
        overall = rivals.filter(pl.col("model").is_in(of_servers.implode()), node_id="(all)", hours="all")
        model = overall.sort("cv_rmse_ratio")["model"][0]
    return rows.filter(node_id=node, hours=hours, model=model)


def terms(expression: str) -> pl.Expr:
    """`a+b-c` of columns; an unknown term is nothing of the sum."""
    found = pl.lit(0.0)
    for sign, name in re.findall(r"([+-]?)([a-z_0-9]+)", expression):
        term = pl.col(name).fill_null(0.0)
        found = found - term if sign == "-" else found + term
    return found


def ratio(rows: pl.DataFrame, column: str) -> float | None:
    above, below = column.split("/")
    names = [above, *re.findall(r"[a-z_0-9]+", below)[:1]]
    if "pue_ratio" in rows.columns and above == "facility_energy_kwh":
        names.append("pue_ratio")
    both = rows.drop_nulls(names)
    sums = both.select(terms(above).sum().alias("above"), terms(below).sum().alias("below")).row(0)
    scale = 1000.0 if above.endswith("_kgco2e") else 1.0
    return scale * sums[0] / sums[1] if both.height and sums[1] else None


def listed(rows: pl.DataFrame, column: str) -> str:
    column, _, known = column.partition(" of ")
    if known:
        rows = rows.filter(pl.col(known).is_not_null())
    return ", ".join(rows[column].drop_nulls().cast(pl.String).unique().sort())


def whole_sum(rows: pl.DataFrame, column: str) -> Any:
    return None if rows[column].null_count() else rows[column].sum()


def known_sum(rows: pl.DataFrame, column: str) -> Any:
    if "+" in column:
        return rows.select(terms(column).sum()).item()
    return rows[column].sum() if rows[column].count() else None


def counts(rows: pl.DataFrame, column: str) -> str:
    return ", ".join(
        f"{count} {name}" for name, count in rows[column].value_counts().sort(column).iter_rows()
    )


def worst(rows: pl.DataFrame, column: str) -> str:
    return next(
        name for name in ("culprit", "candidate", "silent", "unchecked", "agrees") if name in rows[column]
    )


def mean(rows: pl.DataFrame, column: str, weight: str) -> float | None:
    known = rows.drop_nulls(column)
    seconds = known[weight].sum()
    return (known[column] * known[weight]).sum() / seconds if seconds else None


def value(rows: pl.DataFrame, column: str) -> Any:
    """What all rows agree on; a key or a text that a group has in common."""
    found = rows[column].unique()
    assert found.len() == 1, f"{found.len()} values of {column} in {rows.height} rows"
    return found[0]


def verified(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("balance_state") != "unverified", pl.col("residual_kwh").is_not_null())


HOW: dict[str, Callable[[pl.DataFrame, str], Any]] = {
    "value": value,
    "of the best rival": value,
    "sum": known_sum,
    "whole sum": whole_sum,
    "max": lambda rows, column: rows[column].max(),
    "max abs": lambda rows, column: rows[column].abs().max(),
    "rows": lambda rows, column: rows.height,
    "rows scored": lambda rows, column: rows.drop_nulls(["energy_kwh", "predicted_kwh"]).height,
    "known": lambda rows, column: rows[column].count(),
    "list": listed,
    "ratio": ratio,
    "share": lambda rows, column: min(1.0, rows[column.split("/")[0]].sum() / rows[column.split("/")[1]].sum()),
    "counts": counts,
    "worst": worst,
    "distinct": lambda rows, column: rows.select(column.split("+")).n_unique(),
    "first": lambda rows, column: rows.sort("path", "source_position", "raw_text", nulls_last=False)[column][0],
    "sum where verified": lambda rows, column: verified(rows)[column].sum() if verified(rows).height else None,
    "max abs where verified": lambda rows, column: verified(rows).select(
        (pl.col(column.split("/")[0]) / pl.col(column.split("/")[1])).abs().max()
    ).item(),
    "list where unverified": lambda rows, column: "; ".join(
        rows.filter(balance_state="unverified")[column].drop_nulls().unique().sort()
    ),
    "most frequent": lambda rows, column: ", ".join(
        rows.group_by(column).len().sort("len", column, descending=True)[column].head(8)
    ),
    "nodes total": lambda rows, column: rows["node_id"].n_unique(),
    "name": lambda rows, column: {"(all)": "all servers"}.get(str(value(rows, column)), value(rows, column)),
    "unknown in every row": lambda rows, column: ", ".join(
        set(rows["cluster_id"]) - set(rows.drop_nulls(column.removeprefix("cluster_id of "))["cluster_id"])
    ),
    "warnings": lambda rows, column: len(re.findall(r"(?:^|\n|; )warning: ", str(value(rows, column)))),
}  # fmt: skip


def made(site: Site, figure: Figure, page: Page) -> Any:
    """The figure as the lake has it."""
    how, column = figure.how, figure.column
    if figure.table == "mlflow":
        champion = site.once("champion", lambda: site.registry.champion(load(site.config).model.name))
        return champion.version
    if figure.table.endswith("silver/interval"):
        return points(site, str(figure.where["date"])).height
    if figure.table == "charts of power":
        return sum(
            len(spec["datasets"]["rows"])
            for name, spec in page.specs.items()
            if name in ("node-cpu", "gpu-load")
        )
    rows = rows_of(site, figure, page)
    days = str(figure.where.get("date", ""))
    if how.endswith(" expected"):
        return expected(rows, how.removesuffix(" expected"), days)
    if how.startswith("mean by "):
        return mean(rows, column, how.removeprefix("mean by "))
    if how.startswith("of max "):
        return rows.sort(how.removeprefix("of max "), nulls_last=False)[column][-1]
    if how.startswith("share of "):
        table, below = how.removeprefix("share of ").split()
        whole = site.table(table).filter(pl.col("date").is_in(rows["date"].implode()))[below].sum()
        return rows[column].sum() / whole
    if how in ("nodes complete", "nodes open", "open s"):
        return openness(site, days)[how]
    return HOW[how](rows, column)


def bounds(days: str) -> Days:
    first, last = (days.split("..") * 2)[:2]
    return Days(date.fromisoformat(first), date.fromisoformat(last))


def expected(rows: pl.DataFrame, what: str, days: str) -> int:
    if what == "cluster-days with nodes":
        rows = rows.filter(pl.col("node_count") > 0)
    per_day = {"hours": 24, "days": 1}.get(what) or rows["cluster_id"].n_unique()
    return per_day * bounds(days).count


def openness(site: Site, days: str) -> dict[str, float]:
    """Nodes by what they lack: nothing, or only seconds beside a day of which no reading was delivered."""
    span = bounds(days)
    within = pl.col("date").is_between(span.start, span.end)
    intervals = site.table("silver/interval").filter(within, device_id="node", counts_in_total=True)
    hours = site.table("gold/node_hour").filter(within)
    lacks = hours.group_by("node_id").agg(
        (pl.col("expected_s") - pl.col("observed_s")).sum().alias("missing")
    )
    read = site.table("bronze/reading").drop_nulls("node_id")["reading_date"].unique()
    edges = [
        edge
        for edge, beside in (
            (intervals["interval_start"].min(), span.start - timedelta(days=1)),
            (intervals["interval_start"].max(), span.end + timedelta(days=1)),
        )
        if beside not in read
    ]
    unread = (
        intervals.filter(pl.col("interval_start").is_in(edges), pl.col("observed_s") > 0)
        .group_by("node_id")
        .agg((pl.col("interval_s") - pl.col("observed_s")).sum().alias("open"))
    )
    whole = lacks.join(unread, on="node_id", how="left").with_columns(pl.col("open").fill_null(0.0))
    waiting = whole.filter(pl.col("missing") > 1e-3, (pl.col("missing") - pl.col("open")).abs() < 1e-3)
    return {
        "nodes complete": whole.filter(pl.col("missing") <= 1e-3).height,
        "nodes open": waiting.height,
        "open s": max(waiting["open"], default=0.0),
    }


def points(site: Site, days: str) -> pl.DataFrame:
    """Node-hours and GPU-hours with power."""
    span = bounds(days)
    within = pl.col("date").is_between(span.start, span.end)
    nodes = site.table("gold/node_hour").filter(within, pl.col("power_mean_w").is_not_null())
    boards = site.table("silver/interval").filter(
        within, pl.col("device_id").str.starts_with("gpu"), pl.col("power_mean_w").is_not_null()
    )
    key = ["node_id", "device_id", "hour_start"]
    gpus = (
        boards.with_columns(pl.col("interval_start").dt.truncate("1h").alias("hour_start"))
        .select(key)
        .unique()
    )
    return pl.concat([nodes.select("node_id", pl.lit("node").alias("device_id"), "hour_start"), gpus])


def agrees(figure: Figure, found: Any) -> bool:
    """Whether the exact value is the table's, to 1e-9."""
    if figure.how in ("begins", "holds"):
        return figure.value.removesuffix("…").strip() in " ".join(str(found or "").split())
    if found is None or found == "":
        return figure.value == ""
    if isinstance(found, float):
        return figure.value != "" and math.isclose(float(figure.value), found, rel_tol=1e-9, abs_tol=1e-12)
    if isinstance(found, datetime):
        return datetime.fromisoformat(figure.value) == found
    return figure.value == str(found)


SCALES = {
    "MWh": 1e3,
    "GWh": 1e6,
    "kW": 1e3,
    "MW": 1e6,
    "t": 1e3,
    "kB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "%": 0.01,
    "Wh": 1e-3,
}


def shows(figure: Figure) -> bool:
    """Whether the text that a reader sees is the value, rounded."""
    text = figure.text.replace("\u202f", " ").replace("\u00a0", " ").strip()
    if figure.value == "":
        return text in ("–", "", "not known", "None")
    try:
        exact = float(figure.value)
    except ValueError:
        # A name in words, a time in another form, the beginning of a long line.
        plain = figure.value.replace("_", " ")
        stamp = re.sub(r"\+00:00$", "", figure.value).replace("T", " ")
        return any(
            text.removesuffix("…").removesuffix(" UTC").strip() in one for one in (figure.value, plain, stamp)
        )
    if text == "none":
        return exact > 1
    number, _, unit = text.partition(" ")
    digits = number.replace(",", "")
    scale = SCALES.get(unit.split(" ")[0], 1.0)
    last = scale * 10.0 ** -(len(digits.partition(".")[2]))
    # 99.96 % is not shown as all.
    return abs(float(digits) * scale - exact) <= 0.5000001 * last or (
        unit == "%" and 0 < exact < 1 and digits == "99.9"
    )


def check(site: Site, page: Page) -> list[str]:
    wrong = []
    for figure in page.figures:
        if figure.section in WITHOUT_TABLES:
            continue
        if not figure.table:
            wrong.append(f"without a table: {figure.place}")
            continue
        if figure.how in ("begins", "holds"):
            found: Any = value(rows_of(site, figure, page), figure.column)
        else:
            try:
                found = made(site, figure, page)
            except Exception as error:
                wrong.append(f"{type(error).__name__} {error}: {figure.place}")
                continue
        if not agrees(figure, found):
            wrong.append(f"the table says {found!r}: {figure.place}")
        elif not shows(figure):
            wrong.append(f"shown otherwise: {figure.place}")
    return wrong


def unmarked(page: Page) -> list[str]:
    """Text with a digit that is no figure, and none of what may hold one."""
    found = []
    for section, tags, text in page.rest:
        of_the_run = section == "head" and tags[-2:] == ("dd", "code")
        if section in WITHOUT_FIGURES or {"time", "title", "footer"} & set(tags) or of_the_run:
            continue
        left = text
        for word in WORDS:
            left = left.replace(word, "")
        if re.search(r"\d", left):
            found.append(f"#{section} {'>'.join(tags[-3:])}: {text.strip()[:160]}")
    return found


# What a reason says, as a question to the tables; `rows` are those of gold/cluster_day that it speaks of.
Claim = Callable[[Site, pl.DataFrame], bool]


def null(*columns: str) -> Claim:
    return lambda site, rows: all(rows[column].null_count() == rows.height for column in columns)


def nodes_of(site: Site, rows: pl.DataFrame) -> pl.DataFrame:
    key = ["date", "site_id", "cluster_id"]
    return site.table("gold/node_hour").join(rows.select(key), on=key, how="semi")


def nothing_read(column: str) -> Claim:
    return lambda site, rows: nodes_of(site, rows)[column].count() == 0


def basis(column: str, name: str) -> Claim:
    return lambda site, rows: set(rows[column]) == {name}


def site_lacks_hours(site: Site, rows: pl.DataFrame) -> bool:
    hours = site.table("gold/site_hour").join(
        rows.select("date", "site_id"), on=["date", "site_id"], how="semi"
    )
    return hours["facility_energy_kwh"].count() < 24 * rows["date"].n_unique()


CLAIMS: dict[str, Claim] = {
    "it_unknown": null("it_energy_kwh"),
    "facility_unknown": null("facility_energy_kwh"),
    "import_unknown": null("grid_import_kwh"),
    "site_unknown": site_lacks_hours,
    "insufficient": basis("energy_basis", "insufficient"),
    "gpu_only": basis("energy_basis", "gpu_only"),
    "no_power": nothing_read("it_energy_measured_kwh"),
    "not_filled": nothing_read("it_energy_imputed_kwh"),
    "no_whole_hour": lambda site, rows: site.table("gold/cluster_hour").join(
        rows.select("date", "cluster_id"), on=["date", "cluster_id"], how="semi"
    )["it_energy_kwh"].count() == 0,
    "idle_untold": basis("idle_basis", "none"),
    "cpu_unread": nothing_read("cpu_utilisation_ratio"),
    "gpu_unread": nothing_read("gpu_utilisation_ratio"),
    "boards_unread": nothing_read("gpu_energy_kwh"),
    "inlet_unread": nothing_read("inlet_temp_c"),
    "embodied_untold": basis("embodied_basis", "none"),
    "no_water_meter": lambda site, rows: "water" not in site.table("silver/meter")["carrier"].to_list(),
    "water_unshared": lambda site, rows: site.table("gold/cluster_day").filter(
        pl.col("date").is_in(rows["date"].implode())
    )["it_energy_kwh"].null_count() > 0,
}  # fmt: skip


def unfounded(site: Site, page: Page) -> list[str]:
    """Reasons of the page that its rows do not bear out, or that nobody has put to the tables yet."""
    lines = {(one.reason, json.dumps(one.where)): one for one in page.figures if one.reason}
    return [
        f"{one.reason}: {one.where}"
        for one in lines.values()
        if one.reason not in CLAIMS or not CLAIMS[one.reason](site, rows_of(site, one, page))
    ]


def looked_up(site: Site, days: Days) -> list[str]:
    page = site.page(days)
    assert len(page.figures) > 300
    return [*check(site, page), *unmarked(page), *unfounded(site, page), *drawn_otherwise(site, page, days)]


def drawn_otherwise(site: Site, page: Page, days: Days) -> list[str]:
    """Points of charts over time that are not those of their tables, to the six digits that a chart has."""
    within = pl.col("date").is_between(days.start, days.end)
    clusters, hours = (site.table(name).filter(within) for name in ("gold/cluster_hour", "gold/site_hour"))
    grid = hours.with_columns(
        pl.lit("site").alias("cluster_id"),
        (1000 * pl.col("emissions_location_kgco2e") / pl.col("grid_import_kwh")).alias("intensity"),
    )
    charts = {
        "energy": (clusters, "it_energy_kwh"), "carbon": (clusters, "emissions_location_kgco2e"),
        "intensity": (grid, "intensity"),
    }  # fmt: skip
    wrong = []
    for name, (rows, column) in charts.items():
        spec = page.specs.get(name)
        known = {
            (cluster, f"{hour:%Y-%m-%dT%H:%M:%SZ}"): value
            for cluster, hour, value in rows.select("cluster_id", "hour_start", column).iter_rows()
        }
        assert spec is not None, name
        points = {(one["series"], one["time"]): one["value"] for one in spec["datasets"]["rows"]}
        assert len(points) >= 24
        for key, value in points.items():
            if value is None and known.get(key) is None:
                continue
            if value is None or known.get(key) is None or not math.isclose(value, known[key], rel_tol=1e-5):
                wrong.append(f"chart {name} {key}: {value} where the table says {known.get(key)}")
    return wrong


PAGES = pytest.mark.parametrize("days", [Days.of(DAY), Days.of(NEXT_DAY), TWO_DAYS], ids=str)


@PAGES
def test_every_figure_of_a_page_is_the_one_of_its_table(two_days: Site, days: Days) -> None:
    wrong = looked_up(two_days, days)
    assert not wrong, "\n".join(wrong)


def test_a_node_that_nothing_is_read_of_hides_neither_meters_nor_reasons(blind: Site) -> None:
    """Energy, emissions and PUE of the site stand; what its cluster lacks is named with what is so."""
    wrong = looked_up(blind, Days.of(DAY))
    assert not wrong, "\n".join(wrong)
    page = blind.page(Days.of(DAY))
    tiles = {
        one.column: one.value for one in page.figures if one.section == "head" and one.how in ("sum", "ratio")
    }
    sums = (
        blind.table("gold/site_hour")
        .filter(date=DAY)
        .select("facility_energy_kwh", "emissions_location_kgco2e")
        .sum()
    )
    assert float(tiles["facility_energy_kwh"]) == pytest.approx(sums["facility_energy_kwh"][0])
    assert float(tiles["emissions_location_kgco2e"]) == pytest.approx(sums["emissions_location_kgco2e"][0])
    assert float(tiles["numerator/denominator"]) > 1
    assert any(
        one.where.get("it_energy_kwh", "") is None for one in page.figures if one.reason == "insufficient"
    )


def test_pages_of_days_that_a_late_file_changes_are_made_anew_or_marked(blind: Site) -> None:
    former = blind.page(Days.of(DAY))
    for log in (blind.folder / "late").iterdir():
        log.rename(blind.folder / "landing" / "ipmi" / log.name)
    night = blind.night(Days.of(NEXT_DAY))
    assert any("pages made anew: 2025-06-03" in note for note in night.notes), night.notes
    # The day's own page is of this run and says what holds now.
    wrong = looked_up(blind, Days.of(DAY))
    assert not wrong, "\n".join(wrong)
    assert [one.value for one in blind.page(Days.of(DAY)).figures] != [one.value for one in former.figures]
    whole = (blind.folder / "report" / "2025-06-03_2025-06-04" / "index.html").read_text(encoding="utf-8")
    mark = whole[whole.index('id="superseded"') : whole.index("<header>")]
    assert f'data-superseded-by="{night.run_id}"' in mark and 'href="../2025-06-03/index.html"' in mark
    for days in (Days.of(DAY), Days.of(NEXT_DAY)):
        page = (blind.folder / "report" / str(days) / "index.html").read_text(encoding="utf-8")
        assert night.run_id in page and 'id="superseded"' not in page
    blind.night(TWO_DAYS, "report")
    wrong = looked_up(blind, TWO_DAYS)
    assert not wrong, "\n".join(wrong)
    # The same night again changes no figure, and marks no page.
    blind.night(Days.of(NEXT_DAY))
    assert (
        'id="superseded"'
        not in (blind.folder / "report" / "2025-06-03_2025-06-04" / "index.html").read_text()
    )
