"""Bronze to gold on years of real GPU hours: energy to the last digit, and what is not known stays unknown."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from deltalake import DeltaTable as DeltaLog

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from lepton_etl.schema.logs import FILE, READING
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night
from tests.conftest import PROJECT, real_data

DATA = real_data() / "biohpc-gpu-servers"
# The clock change that merges two hours into one row; all three servers log on these days.
DAYS = (Days(date(2024, 11, 2), date(2024, 11, 4)),)
NEW_YORK = ZoneInfo("America/New_York")
AUTUMN_HOUR = datetime(2024, 11, 3, 5, tzinfo=UTC)

pytestmark = [
    pytest.mark.real,
    # The night on the Harvard day stands in `make test`; the decoder's clock change in test_decoders.py.
    pytest.mark.slow,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA} (LEPTON_REAL_DATA)"),
]


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """The lake after bronze, silver and gold of the days, with the committed settings and inventory."""
    root = tmp_path_factory.mktemp("biohpc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEPTON_REAL_DATA", str(real_data()))
        patch.setenv("LEPTON__LAKE__ROOT", str(root / "lake"))
        patch.setenv("LEPTON__QUALITY__DOCS", str(root / "quality"))
        settings = load(PROJECT / "conf" / "examples" / "biohpc.yaml")
    runs = [("bronze", DAYS[0])] + [(stage, days) for days in DAYS for stage in ("silver", "gold")]
    for stage, days in runs:
        night = run_night(InlineEngine(), settings, days, stage)
        assert night.exit_code == Exit.DONE, night.message
    yield Lake(settings.lake.root)


def table(lake: Lake, which: Table) -> pl.DataFrame:
    return pl.from_arrow(DeltaLog(lake.path(which)).to_pyarrow_table())  # type: ignore[return-value]


def plain_python() -> dict[tuple[str, datetime], float]:
    """(server, UTC hour) -> kWh of both GPUs: mean x window x 2; the autumn row holds two hours."""
    hours: dict[tuple[str, datetime], float] = defaultdict(float)
    for file in sorted(DATA.glob("*_usage_stats.txt.gz")):
        with gzip.open(file, "rt", encoding="utf-8-sig") as lines:
            for line in lines:
                cells = line.rstrip("\n").split("\t")
                if len(cells) < 14 or cells[0] == "name":
                    continue
                local = datetime.strptime(cells[1], "%Y-%m-%d %H:%M:%S.%f")  # noqa: DTZ007
                start = local.replace(tzinfo=NEW_YORK, fold=0).astimezone(UTC)
                merged = local.replace(tzinfo=NEW_YORK, fold=1).utcoffset() != local.replace(
                    tzinfo=NEW_YORK, fold=0).utcoffset() and start + timedelta(hours=1) == local.replace(
                    tzinfo=NEW_YORK, fold=1).astimezone(UTC)  # fmt: skip
                for hour in range(2 if merged else 1):
                    hours[cells[0], start + timedelta(hours=hour)] = float(cells[2]) * 3600 * 2 / 3.6e6
    return hours


def test_gpu_energy_is_mean_times_window_times_two_gpus(lake: Lake) -> None:
    expected = plain_python()
    hours = table(lake, NODE_HOUR).filter(pl.col("gpu_energy_kwh").is_not_null())
    found = {(r["node_id"], r["hour_start"]): r["gpu_energy_kwh"] for r in hours.iter_rows(named=True)}
    wanted = {key: kwh for key, kwh in expected.items() if any(key[1].date() in days for days in DAYS)}
    assert found.keys() == wanted.keys()
    assert len(found) > 190
    for key, kwh in wanted.items():
        # The last digit of the sum of twelve intervals: sums are taken in decimal(28,9).
        assert found[key] == pytest.approx(kwh, rel=0, abs=1e-9), key
    assert {node for node, hour in found if hour == AUTUMN_HOUR + timedelta(hours=1)} >= {"cbsugpu08"}


def test_the_autumn_row_is_the_window_of_both_hours(lake: Lake) -> None:
    rows = table(lake, READING).filter(
        (pl.col("reading_time") == AUTUMN_HOUR) & (pl.col("quantity") == "gpu_power")
    )
    assert set(rows["window_s"]) == {7200.0}


def test_servers_without_a_node_sensor_have_no_it_energy(lake: Lake) -> None:
    days = table(lake, CLUSTER_DAY)
    assert days["it_energy_kwh"].null_count() == days.height
    assert set(days["energy_basis"]) == {"gpu_only"}
    assert days["gpu_energy_kwh"].null_count() == 0
    for column in ("pue_ratio", "facility_energy_kwh", "emissions_location_kgco2e"):
        assert days[column].null_count() == days.height, column
    assert set(days["pue_basis"]) | set(days["facility_basis"]) | set(days["emissions_basis"]) == {"none"}


def test_footers_are_structure_and_every_record_is_accounted_for(lake: Lake) -> None:
    files = table(lake, FILE)
    assert files.height == 3
    for row in files.iter_rows(named=True):
        assert row["records"] == row["readings"] + row["rejects"] + row["duplicates"] + row["ignored"]
        assert row["rejects"] == 0 and row["structure_lines"] > 0
    assert Path(files["path"][0]).name.startswith("cbsugpu")
