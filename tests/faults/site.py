"""A small real site for the faults: one source of BMC logs, its lake, bronze run in this process or by the command."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
import yaml

from lepton_etl.cli.main import main
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE, READING, REJECT
from pipelines import bronze
from pipelines.engine import Engine, InlineEngine
from pipelines.stage import StageContext, StageResult
from tests.conftest import PROJECT

DAY = date(2025, 6, 3)
# Four records a snapshot: two readings, one discrete state and one empty sensor that are ignored.
SNAPSHOT = """Timestamp: {day} 00:{minute:02d}:02 UTC
Sys Power                | {watts} Watts         | ok
Ambient Temp             | 22 degrees C      | ok
Host Power               | 0x00              | ok
CPU Power                | no reading        | ns
"""


def ipmi_text(watts: int = 200, snapshots: int = 3, day: date = DAY) -> bytes:
    return "".join(SNAPSHOT.format(day=day, minute=m, watts=watts + m) for m in range(snapshots)).encode()


def day_text(watts: int, day: date, period_s: int = 300) -> bytes:
    """A whole day of snapshots."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    times = (start + timedelta(seconds=second) for second in range(0, 86_400, period_s))
    return "".join(
        SNAPSHOT.replace("{day} 00:{minute:02d}:02", f"{time:%Y-%m-%d %H:%M:%S}").format(
            watts=watts + number % 50
        )
        for number, time in enumerate(times)
    ).encode()


@dataclass
class SmallSite:
    """A folder with settings, inventory and landing folder."""

    folder: Path
    sources: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "landing").mkdir()
        columns = (
            "node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,"
            "lifetime_years,valid_from\n"
        )
        nodes = "".join(f"n{number},c1,,,,,,,2020-01-01\n" for number in range(1, 10))
        (self.folder / "inventory.csv").write_text(columns + nodes)
        bmc = {
            "name": "bmc", "format": "ipmitool", "path": "landing/*.txt*",
            "node_id_from_path": r"(?P<node_id>[^/]+)-\d{4}-\d\d-\d\d\.txt",
        }  # fmt: skip
        whole = {
            "site": {"site_id": "s1"}, "lake": {"root": "lake"}, "fleet": {"inventory": "inventory.csv"},
            "sources": [bmc, *self.sources],
        }  # fmt: skip
        self.config.write_text(yaml.safe_dump(whole | self.settings))
        # Of what it may hold a secret is for its owner alone.
        self.config.chmod(0o600)

    @property
    def config(self) -> Path:
        return self.folder / "site.yaml"

    @property
    def lake(self) -> Lake:
        return Lake(self.folder / "lake")

    def loaded(self) -> Settings:
        return load(self.config)

    def deliver(self, name: str, content: bytes) -> Path:
        path = self.folder / "landing" / name
        path.write_bytes(content)
        return path

    def bronze(self, engine: Engine | None = None, day: date = DAY) -> StageResult:
        """Load what was delivered, in tasks of this process or of an engine."""
        log = structlog.get_logger()
        return bronze.run(
            StageContext(self.lake, self.loaded(), Days.of(day), "test", log, engine or InlineEngine())
        )

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `lepton-etl` with the site's settings in a process of its own."""
        return subprocess.run(
            [sys.executable, "-m", "lepton_etl.cli", *arguments, "--config", str(self.config)],
            cwd=PROJECT, capture_output=True, text=True, check=False, timeout=300, **options,
        )  # fmt: skip

    def verb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the same in this process: for verbs of which only what they do and say matters."""
        out, err = io.StringIO(), io.StringIO()
        command = [*arguments, "--config", str(self.config)]
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main(command)
                code = 0
            except SystemExit as ended:
                code = int(ended.code or 0)
        return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())

    def states(self) -> dict[str, tuple[str, str | None]]:
        """The state and reason of each file of the register, by its name."""
        rows = self.lake.read(FILE, columns=["path", "state", "reason"]).iter_rows()
        return {str(path).rpartition("/")[2]: (state, reason) for path, state, reason in rows}

    def is_conserved(self) -> None:
        """records == readings + rejects + duplicates + ignored of every file, against the tables themselves."""
        readings = dict(self.lake.read(READING).group_by("file_id").len().iter_rows())
        rejects = dict(self.lake.read(REJECT).group_by("file_id").len().iter_rows())
        files = self.lake.read(FILE)
        assert set(files["file_id"]) >= set(readings) | set(rejects)
        for row in files.to_dicts():
            assert row["state"] != "planned"
            parts = [row[name] or 0 for name in ("readings", "rejects", "duplicates", "ignored")]
            assert row["records"] == sum(parts)
            if row["state"] != "duplicate":
                assert (row["readings"] or 0) == readings.get(row["file_id"], 0)
                assert (row["rejects"] or 0) == rejects.get(row["file_id"], 0)
