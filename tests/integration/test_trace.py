"""Any published figure leads to lines of the logs, and the printed formulas make the figure of these lines."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from typer.testing import CliRunner

from lepton_etl.cli.main import app
from lepton_etl.cli.trace import tracer_of
from lepton_etl.config.sections import ModelSettings
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, Exit, LakeError
from lepton_etl.lake.landing import Delivered, Landing
from lepton_etl.lake.tables import Lake
from lepton_etl.models.features import FEATURES
from lepton_etl.models.fit import train
from lepton_etl.models.registry import Registry
from lepton_etl.models.stored import FORWARD_ERROR_TAG
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import NODE_HOUR
from lepton_etl.schema.formulas import told_columns, told_tables
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.untold import REASONS
from lepton_etl.simulator.plan import ClusterPlan, Fault, FleetPlan
from lepton_etl.simulator.simulate import simulate
from lepton_etl.trust.as_recorded import Recorded
from lepton_etl.trust.people import People
from lepton_etl.trust.trace import Choice, Step
from pipelines import nightly
from pipelines.engine import InlineEngine
from tests.unit.models.conftest import hours, settings

__all__ = ["hours", "settings"]
DAYS = Days(date(2025, 6, 3), date(2025, 6, 4))
TARIFF = (
    "tariff_id,charge,price,currency,weekdays,local_from,local_to,valid_from\n"
    "supply,energy,0.30,EUR,,06:00,22:00,2025-01-01\n"
    "supply,energy,0.20,EUR,,00:00,06:00,2025-01-01\n"
    "supply,energy,0.20,EUR,,22:00,24:00,2025-01-01\n"
)
OTHER_DAY = "of another day of the run"
# Wind for a part of what the site draws in a year.
INSTRUMENTS = (
    "instrument_id,instrument_type,zone_id,volume_kwh,vintage_year,instrument_intensity_gco2e_per_kwh,technology,"
    "retirement_id,valid_from,valid_to\ng1,certificate,SIM,9000,2025,11,wind,r1,2025-01-01,\n"
)
GOLD = tuple(name for name in told_tables() if name.startswith("gold/"))


@dataclass(frozen=True)
class Site:
    folder: Path
    settings: Settings

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake.root)

    def cells(self, day: date) -> list[tuple[str, dict[str, Any], str]]:
        """Every published figure of the day that a formula is known of: table, row, column."""
        return [
            (name, row, column)
            for name in GOLD
            for row in self.lake.as_published()
            .read(TABLES[name], Days.of(day) if "date" in TABLES[name].columns else None)
            .sort(TABLES[name].key)
            .to_dicts()
            for column in told_columns(name)
            if row[column] is not None
        ]

    def trace(self, name: str, row: dict[str, Any], column: str, choice: Choice = Choice()) -> Step:  # noqa: B008
        return tracer_of(self.settings, row.get("date", DAYS.end), choice).cell(name, row, column)


def nights(config: Path, days: Days, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Nights without the stages that make no figure of those tables."""
    monkeypatch.setattr(nightly, "DAILY", ("silver", "gold", "kpi", "publish"))
    monkeypatch.setattr(nightly, "AFTER_PUBLICATION", ("score",))
    settings = load(config)
    for day in days:
        night = nightly.run_night(InlineEngine(), settings, Days.of(day))
        assert night.exit_code == Exit.DONE, night.message
    return settings


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("traced")
    clusters = (
        ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s"),
        ClusterPlan(cluster_id="c02", nodes=2, hardware_class="gpu-400"),
    )
    plan = FleetPlan(
        seed=11,
        first_date=DAYS.start,
        days=DAYS.count,
        clusters=clusters,
        faults=(Fault.GAPS, Fault.DUPLICATES),
        # The boards' logs are read by few of the figures here.
        gpu_period_s=300,
    )
    simulate(plan, folder)
    (folder / "tariff.csv").write_text(TARIFF, encoding="utf-8")
    config = folder / "config.yaml"
    (folder / "instruments.csv").write_text(INSTRUMENTS, encoding="utf-8")
    more = "tariff: {file: tariff.csv}\ncarbon: {instruments: instruments.csv}\n"
    config.write_text(f"{config.read_text(encoding='utf-8')}{more}", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patched:
        yield Site(folder, nights(config, DAYS, patched))


def evaluated(numbers: str) -> float:
    def coalesce(*values: float | None) -> float | None:
        return next((value for value in values if value is not None), None)

    functions = {
        "COALESCE": coalesce, "LEAST": min, "GREATEST": max, "SQRT": math.sqrt, "POW": pow, "ABS": abs, "null": None,
    }  # fmt: skip
    return float(eval(numbers, {"__builtins__": {}}, functions))  # noqa: S307


def check_numbers(step: Step) -> None:
    """The formula with its numbers gives the figure: an addend of a sum was rounded to the ninth digit."""
    if step.value is not None and step.numbers:
        assert evaluated(step.numbers) == pytest.approx(
            step.value, rel=1e-9, abs=5e-10 * max(1, step.rows)
        ), step


def check_lines(step: Step) -> None:
    """Each stretch of an interval runs between what two lines say, at the times they say; its energy is the figure."""
    said: dict[datetime, float] = {}
    for line in step.lines:
        assert line.text is not None, line
        assert line.raw_value is not None
        assert line.raw_value in line.text, line
        assert line.reading_time is not None
        said[line.reading_time] = said.get(line.reading_time, 0.0) + float(line.raw_value) * (
            1000.0 if line.raw_unit == "kW" else 1.0
        )
    energy_j = 0.0
    for stretch in (part.key for part in step.parts):
        assert said[stretch["from_time"]] == pytest.approx(stretch["from_w"], rel=1e-12)
        until = stretch["from_time"] + timedelta(seconds=stretch["span_s"])
        if stretch["from_w"] != stretch["to_w"]:
            assert said[until] == pytest.approx(stretch["to_w"], rel=1e-12)
        slope = (stretch["to_w"] - stretch["from_w"]) / stretch["span_s"]
        begin_w, end_w = (stretch["from_w"] + slope * stretch[at] for at in ("begin_s", "end_s"))
        energy_j += (begin_w + end_w) / 2 * (stretch["end_s"] - stretch["begin_s"]) * stretch["weight"]
    assert energy_j / 3.6e6 == pytest.approx(step.value, rel=1e-9)


def check(step: Step) -> None:
    """A walk whose numbers hold at each step and whose ends are lines, imputed hours, or accounts of the ledger."""
    for below in step.walk():
        check_numbers(below)
        if below.table in ("silver/interval", "silver/facility_interval") and below.column == "energy_kwh":
            check_lines(below)
        elif not below.steps and "shown above" not in below.notes:
            ends = below.lines or below.column == "it_energy_imputed_kwh" or below.key.get("account_basis")
            ends = ends or any(why in note for note in below.notes for why in (*REASONS, OTHER_DAY))
            # What is 0 or unknown has no part that could be followed.
            ends = ends or not below.value
            assert ends, f"{below.table}.{below.column} ends in nothing"
            if below.column == "it_energy_imputed_kwh":
                assert below.made_by, below
                assert below.parts


def sampled(site: Site, number: int) -> list[tuple[str, dict[str, Any], str]]:
    """Cells of each table and column in turn, by a generator of its own."""
    draw = random.Random(20)
    cells = site.cells(DAYS.end)
    by_kind: dict[tuple[str, str], list[tuple[str, dict[str, Any], str]]] = {}
    for cell in cells:
        by_kind.setdefault((cell[0], cell[2]), []).append(cell)
    kinds = sorted(by_kind)
    draw.shuffle(kinds)
    return [draw.choice(by_kind[kinds[place % len(kinds)]]) for place in range(number)]


def test_random_figures_end_in_lines_of_which_the_formulas_make_them(site: Site) -> None:
    for name, row, column in sampled(site, 6):
        check(site.trace(name, row, column))


@pytest.mark.slow
def test_fifty_random_figures_end_in_lines_of_which_the_formulas_make_them(site: Site) -> None:
    for name, row, column in sampled(site, 50):
        check(site.trace(name, row, column))


@pytest.mark.slow
def test_every_figure_is_what_its_formula_says(site: Site) -> None:
    tracer = tracer_of(site.settings, DAYS.start, Choice())
    for name, row, column in site.cells(DAYS.start):
        formula, frame = tracer._made(name, row, column)
        if formula is None:
            assert name == "gold/energy_ledger", f"no formula holds for {name}.{column}"
            continue
        step = Step(name, {}, column, row[column])
        tracer._evaluate(step, formula, frame)
        check_numbers(step)


def test_the_whole_walk_of_an_hour_makes_the_hour_of_its_lines_alone(site: Site) -> None:
    hours = site.lake.as_published().read(NODE_HOUR, Days.of(DAYS.start))
    row = hours.filter(pl.col("node_id") == "c02n0001", pl.col("hour_start").dt.hour() == 9).to_dicts()[0]
    whole = site.trace(NODE_HOUR.name, row, "it_energy_kwh", Choice(whole=True))
    intervals = [step for step in whole.walk() if step.table == "silver/interval"]
    assert len(intervals) == 12
    for step in intervals:
        check_lines(step)
    energy = sum(part.value for step in intervals for part in step.parts) / 3.6e6
    assert energy == pytest.approx(row["it_energy_kwh"], rel=1e-9)
    assert len({(line.path, line.position) for step in intervals for line in step.lines}) > 60


def test_a_whole_walk_reads_each_node_and_meter_and_each_delivered_file_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, opened = Counter[str](), Counter[str]()
    read, open_file = Recorded._at, Landing.open

    def counted(self: Recorded, wanted: int | None, table: Table, *how: Any) -> Any:
        reads[table.name] += 1
        return read(self, wanted, table, *how)

    def opening(self: Landing, delivered: Delivered, *how: Any) -> Any:
        opened[delivered.path] += 1
        return open_file(self, delivered, *how)

    monkeypatch.setattr(Recorded, "_at", counted)
    monkeypatch.setattr(Landing, "open", opening)
    hours = site.lake.as_published().read(TABLES["gold/site_hour"], Days.of(DAYS.end)).sort("hour_start")
    whole = site.trace("gold/site_hour", hours.to_dicts()[10], "it_energy_measured_kwh", Choice(whole=True))
    row = hours.to_dicts()[10]
    metered = site.trace("gold/site_hour", row, "facility_metered_kwh", Choice(whole=True))
    for walk, of in ((whole, "node_id"), (metered, "meter_id")):
        steps = [step for step in walk.walk() if of in step.key and step.lines]
        assert len(steps) >= 12 * len({step.key[of] for step in steps})
    assert reads["bronze/reading"] == 4 + 1, "four nodes and the utility meter"
    assert max(count for table, count in reads.items() if table.startswith("gold/")) <= 3
    assert set(opened.values()) <= {1, 2}


def test_a_filled_gap_ends_in_what_filled_it_with_its_inputs(site: Site) -> None:
    hours = site.lake.as_published().read(NODE_HOUR, DAYS)
    gaps = (
        hours.filter(pl.col("imputation_basis") == "history").sort("hour_start", descending=True).to_dicts()
    )
    assert gaps, "the fault made no gap"
    step = site.trace(NODE_HOUR.name, gaps[0], "it_energy_imputed_kwh")
    assert step.made_by.startswith("lepton_etl.energy.gaps.fill_gaps of code version ")
    assert float(step.numbers) == pytest.approx(gaps[0]["it_energy_imputed_kwh"], rel=1e-9)
    assert step.parts
    assert all(part.value is not None for part in step.parts)


def test_a_run_leads_to_its_accounting_whose_line_says_no_name(site: Site) -> None:
    cells = [
        cell for cell in site.cells(DAYS.end) if cell[0] == "gold/job_energy" and cell[2] == "it_energy_kwh"
    ]
    step = site.trace(*cells[0])
    names = [name for _, name in People.of(site.lake, site.settings).names()]
    assert len(names) > 5
    assert any(line.text and step.key["job_id"] in line.text for line in step.lines)
    raw = "".join(
        (site.folder / "landing" / "slurm").joinpath(f"sacct-{DAYS.end}.txt").read_text(encoding="utf-8")
    )
    assert any(name in raw for name in names)
    for line in step.lines:
        assert line.text
        assert not any(re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", line.text) for name in names)


def test_the_sci_of_a_run_is_of_all_its_days_and_another_day_is_named(site: Site) -> None:
    jobs = site.lake.as_published().read(TABLES["gold/job_energy"], DAYS)
    run = ["cluster_id", "job_id", "submit_time", "restart"]
    ended = jobs.filter(pl.col("date") == DAYS.end, pl.col("sci_gco2e_per_job").is_not_null())
    before = jobs.filter(pl.col("date") == DAYS.start).join(ended, on=run, how="semi").sort(run).to_dicts()
    row = ended.join(pl.DataFrame(before[:1]), on=run, how="semi").to_dicts()[0]
    step = site.trace("gold/job_energy", row, "sci_gco2e_per_job")
    check(step)
    assert step.rows == 2
    tracer = tracer_of(site.settings, DAYS.end, Choice())
    other = tracer.cell("gold/job_energy", before[0], "it_energy_kwh")
    assert (other.steps, other.notes) == ([], [f"{OTHER_DAY}: trace it with --date {DAYS.start}"])


def test_a_changed_table_is_an_error_that_names_both_figures(site: Site) -> None:
    name, row, column = next(
        cell for cell in site.cells(DAYS.end) if cell[::2] == ("gold/cluster_day", "it_energy_kwh")
    )
    wrong = {**row, column: row[column] + 0.001}
    with pytest.raises(LakeError, match=f"{wrong[column]!r}, and its formula .* gives {row[column]!r:.9}"):
        site.trace(name, wrong, column)


def hour_of(site: Site, node_id: str) -> dict[str, Any]:
    hours = site.lake.as_published().read(NODE_HOUR, Days.of(DAYS.end))
    return hours.filter(pl.col("node_id") == node_id, pl.col("hour_start").dt.hour() == 20).to_dicts()[0]


def test_a_log_that_is_gone_or_another_one_is_named_and_its_line_is_not_made_up(site: Site) -> None:
    log = site.folder / "landing" / "ipmi" / f"c01n0002-{DAYS.end}.txt.gz"
    logged = log.read_bytes()

    def missing() -> set[str | None]:
        walk = site.trace(NODE_HOUR.name, hour_of(site, "c01n0002"), "it_energy_kwh").walk()
        lines = [line for step in walk for line in step.lines]
        assert {line.text for line in lines} == {None}
        assert all(line.position and line.raw_value for line in lines)
        return {line.missing for line in lines}

    try:
        log.unlink()
        assert missing() == {"the file lies in the landing folder no more"}
        log.write_bytes(gzip.compress(gzip.decompress(logged).replace(b"Watts", b"watts")))
        assert missing() == {"the file that lies there now holds other bytes (its SHA-256 differs)"}
    finally:
        log.write_bytes(logged)


def test_readings_that_retention_took_are_named_and_nothing_stands_in_their_place(
    site: Site, tmp_path: Path
) -> None:
    shutil.copytree(site.folder, tmp_path / "copy")
    there = Site(tmp_path / "copy", load(tmp_path / "copy" / "config.yaml"))
    bronze = there.lake.log(TABLES["bronze/reading"])
    bronze.alter.set_table_properties({"delta.appendOnly": "false"})
    bronze.delete("node_id = 'c02n0001'")
    bronze.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    tracer = tracer_of(there.settings, DAYS.end, Choice())
    last = list(tracer.cell(NODE_HOUR.name, hour_of(there, "c02n0001"), "it_energy_kwh").walk())[-1]
    assert (last.table, last.lines, last.numbers) == ("silver/interval", [], "")
    assert any(note.startswith("missing: nothing stands in the lake") for note in last.notes)
    assert any("of bronze/reading, which the night read, is gone" in what for what in tracer.recorded.gone)


def test_the_verb_prints_the_walk_and_refuses_what_it_does_not_know(site: Site) -> None:
    config = str(site.folder / "config.yaml")
    asked = [
        "trace",
        "--config",
        config,
        "--table",
        "gold/cluster_day",
        "--date",
        "2025-06-04",
        "--cluster",
        "c01",
    ]
    shown = CliRunner().invoke(app, [*asked, "--column", "energy_kwh"])
    assert shown.exit_code == 0, shown.output
    assert "Sys Power" in shown.output
    assert "landing/ipmi/" in shown.output
    as_json = CliRunner().invoke(app, [*asked, "--column", "pue", "--node", "c01n0002", "--json"])
    assert as_json.exit_code == 0, as_json.output
    (figure,) = json.loads(as_json.stdout)["figures"]
    assert figure["column"] == "pue_ratio"
    assert "c01n0001" not in {
        step["key"].get("node_id") for step in flattened(figure) if step["table"] == "silver/interval"
    }
    for wrong in (["--column", "inlet_temp_p99_c"], ["--column", "energy_kwh", "--tenant", "t"]):
        refused = CliRunner().invoke(app, [*asked, *wrong])
        assert isinstance(refused.exception, ConfigurationError), refused.output
    nobody = CliRunner().invoke(
        app, [*asked, "--column", "carbon", "--cluster", "nobody", "--date", "2025-06-09"]
    )
    assert isinstance(nobody.exception, LakeError)
    assert "never published" in str(nobody.exception)


def flattened(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield step
    for below in step["steps"]:
        yield from flattened(below)


@pytest.mark.slow
def test_a_gap_that_a_model_filled_ends_in_the_version_that_gives_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: pd.DataFrame, settings: ModelSettings
) -> None:
    day = Days.of(DAYS.start)
    cluster = ClusterPlan(cluster_id="c01", nodes=1, hardware_class="cpu-2s")
    simulate(FleetPlan(seed=3, first_date=day.start, days=1, clusters=(cluster,)), tmp_path)
    log = tmp_path / "landing" / "ipmi" / f"c01n0001-{day.start}.txt.gz"
    kept, hour = [], ""
    for line in gzip.decompress(log.read_bytes()).decode().splitlines(keepends=True):
        hour = line[22:24] if line.startswith("Timestamp: ") else hour
        # For an hour the node says how busy it is, and not what it draws.
        if hour != "13" or not re.search("Power|Pwr", line):
            kept.append(line)
    log.write_bytes(gzip.compress("".join(kept).encode()))
    mlflow = load(tmp_path / "config.yaml").mlflow
    tags = {"training_key": "k", "test_until": "2025-06-02T23:00:00+00:00", FORWARD_ERROR_TAG: "0.05"}
    version = Registry.of(mlflow).register("node-energy", train(hours, settings), FEATURES["node"], {}, tags)
    there = Site(tmp_path, nights(tmp_path / "config.yaml", day, monkeypatch))
    rows = there.lake.read(NODE_HOUR, day).filter(pl.col("imputation_basis") == "model").to_dicts()
    row = next(row for row in rows if row["hour_start"].hour == 13)
    step = there.trace(NODE_HOUR.name, row, "it_energy_imputed_kwh")
    assert step.made_by == f"model node-energy version {version.version}"
    check_numbers(step)
    inputs = {part.column: part.value for part in step.parts}
    assert 0 < inputs["cpu_utilisation_ratio"] <= 1
    assert inputs["gap_s"] == pytest.approx(row["imputed_s"])
    with pytest.raises(LakeError, match="predicted_kwh"):
        there.trace(NODE_HOUR.name, row | {"it_energy_imputed_kwh": 9.0}, "it_energy_imputed_kwh")


# A node whose power is modelled of its components.
MODELLED = """
site: {{site_id: here, timezone: UTC}}
lake: {{root: {root}/lake}}
fleet: {{inventory: {root}/inventory.csv}}
sources: [{{name: kepler, format: prometheus, path: "{root}/landing/*.prom"}}]
"""


@pytest.mark.parametrize("counts", [False, True], ids=["watts", "counters"])
def test_a_modelled_interval_ends_in_its_model_and_the_lines_of_its_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: bool
) -> None:
    (tmp_path / "landing").mkdir()
    (tmp_path / "config.yaml").write_text(MODELLED.format(root=tmp_path), encoding="utf-8")
    (tmp_path / "inventory.csv").write_text(
        "node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,"
        "valid_from,gpu_count,rest_power_w\nk1,blue,,web,,,,,2025-01-01,0,100\n",
        encoding="utf-8",
    )
    day = Days.of(date(2025, 6, 3))
    metric = "kepler_node_cpu_joules_total" if counts else "kepler_node_cpu_watts"
    lines = [
        f'{metric}{{zone="{zone}",instance="k1"}} {watts * 60 * minute if counts else watts} '
        f"{int((day.from_time + timedelta(minutes=minute)).timestamp() * 1000)}"
        for minute in range(24 * 60 + 1)
        for zone, watts in (("package", 100), ("dram", 40))
    ]
    (tmp_path / "landing" / "all.prom").write_text("\n".join([*lines, ""]), encoding="utf-8")
    there = Site(tmp_path, nights(tmp_path / "config.yaml", day, monkeypatch))
    row = (
        there.lake.read(NODE_HOUR, day)
        .filter(pl.col("hour_start") == datetime(2025, 6, 3, 7, tzinfo=UTC))
        .to_dicts()[0]
    )
    assert row["it_energy_kwh"] == pytest.approx((100 + 1.14 * 140) / 1000)
    whole = there.trace(NODE_HOUR.name, row, "it_energy_kwh", Choice(whole=True))
    modelled = [step for step in whole.walk() if "judged_sums" in step.made_by]
    assert len(modelled) == 12
    for step in modelled:
        check_numbers(step)
        assert any(note.startswith("model: NodeModel(") for note in step.notes)
        assert "point of the line: modelled_stated" in step.notes
        assert {below.key["device_id"] for below in step.steps} == {"cpu", "dram"}
        assert all(line.text and metric in line.text for below in step.steps for line in below.lines)
        assert all(len(below.lines) == 6 for below in step.steps)
        assert {part.key["from_w"] for below in step.steps for part in below.parts} == {100.0, 40.0}
