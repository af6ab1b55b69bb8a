"""The audit chain of nights that the product made: whatever is done to the lake is found, and a proof needs no lake."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml
from deltalake import write_deltalake

from lepton_etl.cli.main import main
from lepton_etl.cli.reproduce import ALL, reproduced
from lepton_etl.config.sections import AuditSettings
from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError, LakeError
from lepton_etl.lake.file_register import FileRegister
from lepton_etl.lake.landing import Landing
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.jobs import JOB_ENERGY, TENANT_DAY
from lepton_etl.schema.ledger import ENERGY_LEDGER, METER_CHECK
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.operations import RUN
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.trust import AUDIT
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from lepton_etl.trust import migration
from lepton_etl.trust.chain import Event, chained, record
from lepton_etl.trust.keys import new_key, write_key
from lepton_etl.trust.merkle import path_of, root_by_path, root_hash
from lepton_etl.trust.migration import migrate
from lepton_etl.trust.people import People
from lepton_etl.trust.prove import prove_event, prove_file
from lepton_etl.trust.seal import Root, anchored, canonical, head_of, head_place, public_key, signing_key
from lepton_etl.trust.source_lines import SourceLines
from lepton_etl.trust.verify import Finding, Verified, read_chain, verify
from pipelines.nightly import check
from tests.conftest import PROJECT
from tests.nights import Kill, Nights

FIRST, SECOND = date(2025, 6, 3), date(2025, 6, 4)
# What a night without models publishes of a site that has jobs, meters and a grid.
PUBLISHED = {
    one.name
    for one in (
        CLUSTER_DAY, CLUSTER_HOUR, SITE_HOUR, NODE_HOUR, JOB_ENERGY, TENANT_DAY, ENERGY_LEDGER, METER_CHECK, KPI,
    )
}  # fmt: skip
# The last stage names the night: of those after publication the cheapest is left.
LEFT_OUT = ("gate", "train", "diagnose", "forecast", "recommend", "report")
# Of a night that finds nothing new: what it does to the chain is the matter, not the same figures once more.
AGAIN = (*LEFT_OUT, "silver", "gold", "kpi")


@dataclass(frozen=True)
class Made:
    """A site after two nights, a copy of it after the first, and the key that must have signed."""

    nights: Nights
    site: Path
    first: Path
    whole: Path
    key: str

    @property
    def config(self) -> Path:
        return self.site / "config.yaml"

    @property
    def lake(self) -> Lake:
        return Lake(self.site / "lake")

    @property
    def anchor(self) -> Path:
        return self.site.parent / "roots.jsonl"

    def found(self, *only: str) -> list[str]:
        return [str(one) for one in verify(self.lake, anchored(self.anchor), [self.key], only=only)]


@pytest.fixture(scope="module")
def prepared(nights: Nights, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("audit")
    site = folder / "site"
    cluster = ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s")
    # The chain has as many events of sparse logs.
    simulate(FleetPlan(seed=11, first_date=FIRST, days=2, clusters=(cluster,), bmc_period_s=300), site)
    key = made_key(folder / "key")
    config = yaml.safe_load((site / "config.yaml").read_text())
    config["audit"] = {"key_file": str(folder / "key"), "anchor": str(folder / "roots.jsonl")}
    (site / "config.yaml").write_text(yaml.safe_dump(config))
    assert nights.run(site / "config.yaml", FIRST, leave_out=LEFT_OUT).exit_code == 0
    first = shutil.copytree(site, folder / "first")
    assert nights.run(site / "config.yaml", SECOND, leave_out=LEFT_OUT).exit_code == 0
    return Made(nights, site, first, shutil.copytree(site, folder / "whole"), key)


@pytest.fixture
def made(prepared: Made) -> Iterator[Made]:
    """The site as its nights left it; what a test does to it is undone."""
    roots = prepared.anchor.read_bytes()
    yield prepared
    shutil.rmtree(prepared.site)
    shutil.copytree(prepared.whole, prepared.site)
    prepared.anchor.write_bytes(roots)


def made_key(file: Path) -> str:
    """Make a key; the public one."""
    write_key(file, new_key())
    return public_key(signing_key(AuditSettings(key_file=file)))


def events(lake: Lake) -> list[dict[str, object]]:
    return lake.read(AUDIT).sort("seq").to_dicts()


def chain_file(lake: Lake) -> Path:
    return max(Path(lake.path(AUDIT)).glob("date=*/*.parquet"), key=lambda file: file.stat().st_size)


def edit(file: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    """Write the rows of a file of the chain anew, under its own name."""
    change(pl.read_parquet(file, hive_partitioning=False)).write_parquet(file)


def test_two_nights_are_as_their_chain_says(made: Made) -> None:
    """Each kind of event is there, each table's versions belong to one, and nothing is found."""
    seen = Verified()
    assert list(verify(made.lake, anchored(made.anchor), [made.key], seen)) == []
    kinds = [row["event_kind"] for row in events(made.lake)]
    assert {"files", "stage", "publication", "run"} <= set(kinds)
    assert "unclaimed" not in kinds
    assert (seen.anchored, seen.signed_by) == (2, made.key)
    told: dict[str, set[str]] = {}
    for row in events(made.lake):
        for name, said in json.loads(str(row["event_outputs"])).items():
            told.setdefault(name, set()).update(said["commits"])
    runs = made.lake.version(RUN)
    assert told[RUN.name] == {str(one) for one in range((runs or 0) + 1)}


def test_a_night_costs_the_chain_one_commit(made: Made) -> None:
    before = Lake(made.first / "lake").version(AUDIT) or 0
    assert made.lake.version(AUDIT) == before + 1


def test_each_byte_of_the_lake_is_vouched_for(made: Made) -> None:
    """Two hundred bytes of files drawn from all tables, logs and the head, each changed and found."""
    root = made.site / "lake"
    folders: dict[str, list[Path]] = {}
    for file in sorted(root.rglob("*")):
        if file.is_file() and file.relative_to(root).parts[0] not in ("_leases", "_people"):
            folders.setdefault("/".join(file.relative_to(root).parts[:2]), []).append(file)
    draw, missed = random.Random(20), []
    for number in range(200):
        file = draw.choice(list(folders.values())[number % len(folders)])
        content = file.read_bytes()
        at = draw.randrange(len(content))
        file.write_bytes(content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :])
        if not made.found("/".join(file.relative_to(root).parts[:2])):
            missed.append(f"{file} at {at}")
        file.write_bytes(content)
    assert missed == []
    assert made.found() == []


def test_each_table_is_vouched_for(made: Made) -> None:
    """A row written by another program, a file taken away, a log taken away: each table, each found and named."""
    for log in sorted((made.site / "lake").glob("*/*/_delta_log")):
        name = "/".join(log.parts[-3:-1])
        commit = max(log.glob("*.json"))
        forged = log / f"{int(commit.stem) + 1:020d}.json"
        forged.write_text(json.dumps({"commitInfo": {"run_id": "20250603T000000-beef"}}) + "\n")
        version = f"{name} version {int(forged.stem)}"
        assert (
            f"{version}: the chain does not know this version; it names run 20250603T000000-beef"
            in made.found(name)
        )
        forged.unlink()
        content = commit.read_bytes()
        commit.unlink()
        gone = "the commit is gone" if list(log.glob("*.json")) else "the table's log is gone"
        assert any(
            one.startswith(f"{name} version {int(commit.stem)}: {gone} (event ") for one in made.found(name)
        )
        commit.write_bytes(content)
        files = [Path(one.path) for one in made.lake.files(TABLES[name])]
        if files:
            content = files[-1].read_bytes()
            files[-1].unlink()
            found = made.found(name)
            assert any(one.startswith(name) and "event" in one for one in found), (name, found)
            files[-1].write_bytes(content)
    assert made.found() == []


@pytest.mark.parametrize("column", [name for name in AUDIT.columns if name != "date"])
def test_each_column_of_each_event_is_vouched_for(made: Made, column: str) -> None:
    """A value that is changed in the rows alone is found by the event's own hash, whatever the file is called."""
    rows = made.lake.read(AUDIT).sort("seq")
    draw = random.Random(column)
    for row in rows.to_dicts():
        file = next(
            one for one in Path(made.lake.path(AUDIT)).glob("date=*/*.parquet")
            if row["seq"] in pl.read_parquet(one)["seq"]
        )  # fmt: skip
        kept = file.read_bytes()
        value = row[column]
        other = {
            int: lambda old: old + 1000, str: lambda old: old[:-1] + draw.choice("§%"), type(None): lambda _: "x",
        }.get(type(value), lambda old: old.replace(microsecond=(old.microsecond + 1) % 1_000_000))(value)  # fmt: skip
        edit(file, lambda of, seq=row["seq"], to=other: of.with_columns(
            pl.when(pl.col("seq") == seq).then(pl.lit(to, of.schema[column])).otherwise(pl.col(column)).alias(column)
        ))  # fmt: skip
        found = [one for one in made.found(RUN.name) if one.startswith("ops/audit: ")]
        file.write_bytes(kept)
        assert found, (row["seq"], column)


def test_an_event_that_is_taken_out_or_moved_is_found(made: Made) -> None:
    file = chain_file(made.lake)
    kept = file.read_bytes()
    edit(file, lambda rows: rows.filter(pl.col("seq") != rows["seq"][1]))
    assert any("events are not one after the other" in one for one in made.found(AUDIT.name))
    file.write_bytes(kept)
    edit(file, lambda rows: rows.with_columns(seq=pl.col("seq").reverse()))
    assert any("the event does not follow the one before it" in one for one in made.found(AUDIT.name))


def test_a_chain_that_was_cut_or_made_anew_does_not_agree_with_the_anchor(made: Made) -> None:
    """The lake of the night before, whole in itself, and a lake whose nights were run again: neither fits the roots."""
    assert list(verify(Lake(made.first / "lake"), (), [made.key])) == []
    cut = [str(one) for one in verify(Lake(made.first / "lake"), anchored(made.anchor), [made.key])]
    assert any("the chain is cut" in one for one in cut)
    roots = anchored(made.anchor)
    shutil.rmtree(made.site / "lake")
    assert made.nights.run(made.config, FIRST, leave_out=LEFT_OUT).exit_code == 0
    assert list(verify(made.lake, (), [made.key])) == []
    forked = [str(one) for one in verify(made.lake, roots, [made.key])]
    assert any("the chain is another" in one or "the chain is cut" in one for one in forked)


@pytest.mark.parametrize("field", [one.name for one in fields(Root)])
def test_each_field_of_a_root_is_vouched_for(made: Made, field: str) -> None:
    """In the head, and in the auditor's own file."""
    head, roots = Path(head_place(made.lake.root).uri), made.anchor.read_bytes()
    said = json.loads(head.read_bytes())
    said["root"][field] = said["root"][field] + 1 if isinstance(said["root"][field], int) else "0" * 64
    content = head.read_bytes()
    head.write_text(json.dumps(said, sort_keys=True, separators=(",", ":")))
    assert any(one.startswith("head:") for one in made.found(AUDIT.name))
    head.write_bytes(content)
    lines = [json.loads(line) for line in roots.splitlines()]
    lines[0]["root"][field] = said["root"][field]
    made.anchor.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    assert any(one.startswith("anchored root 1 ") for one in made.found(AUDIT.name))


def test_a_chain_made_with_another_key_is_found(made: Made, tmp_path: Path) -> None:
    other = AuditSettings(key_file=tmp_path / "other")
    stranger = made_key(tmp_path / "other")
    record(made.lake, other, "20250604T000000-beef", Event("close", "2025-05"))
    found = made.found(AUDIT.name)
    assert f"head: it is signed by another key ({stranger}) (event {len(events(made.lake))})" in found


def test_a_killed_night_is_closed_by_the_next(made: Made) -> None:
    """Killed between two commits, and between the chain's commit and its head: after the next night nothing is open."""
    for kill in (Kill(3, ("after gold/",)), Kill(1, ("after ops/audit",))):
        shutil.rmtree(made.site)
        shutil.copytree(made.first, made.site)
        made.nights.run(made.config, SECOND, kill=kill, leave_out=LEFT_OUT)
        assert list(verify(made.lake, (), [made.key])), "an open run is told of"
        assert made.nights.run(made.config, SECOND, leave_out=LEFT_OUT).exit_code == 0
        assert list(verify(made.lake, (), [made.key])) == []
        ends = [row["event_kind"] for row in events(made.lake)]
        assert ends.count("run") == 3, "the killed run has its event"
        assert "unclaimed" not in ends


def test_what_no_run_claims_is_told_until_it_is_acknowledged(made: Made) -> None:
    """Another program's commit is not made good by the next night, which records it as a stranger's."""
    rows = made.lake.read(KPI).head(1)
    write_deltalake(made.lake.path(KPI), rows.to_arrow(), mode="append")
    write_deltalake(
        made.lake.path(CLUSTER_DAY), made.lake.read(CLUSTER_DAY).head(1).to_arrow(), mode="append",
    )  # fmt: skip
    assert made.nights.run(made.config, SECOND, leave_out=AGAIN).exit_code == 0
    (found,) = [one for one in made.found() if "no run claims" in one]
    seq = next(row["seq"] for row in events(made.lake) if row["event_kind"] == "unclaimed")
    assert found.endswith(f"(event {seq})")
    audit = load(made.config).audit
    reason = {"event": seq, "reason": "an import by hand"}
    record(made.lake, audit, "20250605T000000-beef", Event("acknowledgement", f"event {seq}", detail=reason))
    assert made.found() == []


@pytest.mark.parametrize("has_chain", [True, False])
def test_a_migration_leaves_the_chain_whole(made: Made, *, has_chain: bool) -> None:
    """Tables that may name people are rewritten and their past removed, with events of its own and no hand's word."""
    if not has_chain:
        shutil.rmtree(made.lake.path(AUDIT))
        shutil.rmtree(made.site / "lake" / "_audit")
    settings, run_id = load(made.config), "20250605T000000-beef"
    lake = made.lake.saying({"run_id": run_id, "stage": "privacy"})
    before = lake.version(JOB_ENERGY)
    changed = [
        one.changed for one in migrate(lake, settings, people_of(made, run_id), tenants=True, why="a test")
    ]
    assert any(changed)
    assert not (lake.at(JOB_ENERGY) / f"_delta_log/{0:020d}.json").exists()
    assert list(verify(made.lake, (), [made.key])) == []
    begun, goes_on, done = (row for row in events(lake) if row["event_kind"] == "erasure")
    assert {row["subject"] for row in (begun, goes_on, done)} == {"a test"}
    assert json.loads(str(begun["event_inputs"]))[JOB_ENERGY.name] == before
    after = json.loads(str(goes_on["event_outputs"]))[JOB_ENERGY.name]["commits"]
    assert after and min(map(int, after)) > (before or 0)
    assert json.loads(str(done["event_detail"]))["tables"] > 0
    assert made.nights.run(made.config, SECOND, leave_out=LEFT_OUT if has_chain else AGAIN).exit_code == 0
    assert list(verify(made.lake, (), [made.key])) == []
    made.lake.rewrite(JOB_ENERGY, lambda rows: rows.head(0))
    assert made.found(JOB_ENERGY.name) != [], "a rewrite without its event stays found"


@pytest.mark.parametrize("point", ["rewrite", "purge", "tell"])
def test_a_migration_that_was_killed_needs_no_hand(
    made: Made, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """In the middle of its rewriting, of its removing, and before its last event: nights and a second one go on."""
    settings, run_id = load(made.config), "20250605T000000-beef"
    lake = made.lake.saying({"run_id": run_id, "stage": "privacy"})
    calls: list[str] = []
    name, of = {
        "rewrite": ("rewrite", lake), "purge": ("purge", migration), "tell": ("record", migration)
    }[point]  # fmt: skip
    real = getattr(of, name)

    def killing(*given: object, **more: object) -> object:
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*given, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(of, name, killing)
        list(migrate(lake, settings, people_of(made, run_id), tenants=True, why="a test"))
    assert made.nights.run(made.config, SECOND, leave_out=AGAIN).exit_code == 0
    assert list(verify(made.lake, (), [made.key])) == []
    again = "20250606T000000-beef"
    lake = made.lake.saying({"run_id": again, "stage": "privacy"})
    list(migrate(lake, settings, people_of(made, again), tenants=True, why="a test"))
    assert list(verify(made.lake, (), [made.key])) == []
    assert "unclaimed" not in {row["event_kind"] for row in events(lake)}
    assert head_of(lake.root).known.begun == {}


def people_of(made: Made, run_id: str) -> People:
    return People.of(made.lake.saying({"run_id": run_id, "stage": "privacy"}), load(made.config), run_id)


def test_a_lake_of_before_is_taken_up_as_it_stands(made: Made) -> None:
    """The first night of this release on an older lake: what stood there is known, its changes found."""
    shutil.rmtree(made.lake.path(AUDIT))
    shutil.rmtree(made.site / "lake" / "_audit")
    write_deltalake(made.lake.path(KPI), made.lake.read(KPI).head(1).to_arrow(), mode="append")
    assert made.nights.run(made.config, SECOND, leave_out=AGAIN).exit_code == 0
    assert events(made.lake)[0]["event_kind"] == "adoption"
    assert list(verify(made.lake, (), [made.key])) == []
    file = Path(made.lake.files(CLUSTER_DAY)[0].path)
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    (found,) = verify(made.lake, (), [made.key])
    assert (found.what, found.event is not None) == ("the file differs: its SHA-256 is another", True)


def test_a_log_that_was_made_anew_is_told(made: Made) -> None:
    shutil.rmtree(made.lake.path(KPI))
    assert made.nights.run(made.config, SECOND, leave_out=LEFT_OUT).exit_code == 0
    assert any(
        one.startswith("gold/kpi: the table's log was no longer what it had been") for one in made.found()
    )


def test_a_proof_needs_no_lake(made: Made, tmp_path: Path) -> None:
    """Proofs of every event and a raw file are checked by the script alone; changed in any part they do not hold."""
    path = made.lake.read(FILE, columns=["path"])["path"][0]
    proofs = [prove_event(made.lake, int(str(row["seq"]))) for row in events(made.lake)]
    proofs.append(prove_file(made.lake, path))
    for number, proof in enumerate(proofs):
        (tmp_path / f"{number}.json").write_text(json.dumps(proof))

    def check(file: Path, *more: str) -> subprocess.CompletedProcess[str]:
        script = PROJECT / "scripts" / "check_audit_proof.py"
        # Isolated: lepton_etl is not to be found.
        command = [sys.executable, "-I", str(script), str(file), *more]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    for number in (0, 3, len(proofs) - 1):
        done = check(tmp_path / f"{number}.json", "--key", made.key, "--anchor", str(made.anchor))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "signed by the key that was asked for" in done.stdout
    assert f'"path":"{path}"' in done.stdout
    changed = json.loads((tmp_path / f"{len(proofs) - 1}.json").read_text())
    for name in ("event", "file"):
        forged = changed | {name: changed[name].replace("loaded", "discarded")}
        (tmp_path / "forged.json").write_text(json.dumps(forged))
        assert check(tmp_path / "forged.json").returncode == 1
    with pytest.raises(LakeError, match="no event 9999"):
        prove_event(made.lake, 9999)


def test_each_batch_of_raw_files_is_the_one_that_its_event_names(made: Made) -> None:
    """A row of the register that is changed together with its table's files, as by one who has the run's rights."""
    seen = Verified()
    assert list(verify(made.lake, (), [made.key], seen)) == []
    batches = sorted(set(made.lake.read(FILE, columns=["batch"])["batch"]))
    assert seen.batches == len(batches) > 0
    path = made.lake.read(FILE, columns=["path"])["path"][0]
    rows = made.lake.read(FILE).with_columns(
        size_bytes=pl.col("size_bytes") + (pl.col("path") == path).cast(pl.Int64)
    )
    made.lake.saying({"run_id": "20250605T000000-beef", "stage": "close"}).write_rows(
        FILE, rows.to_dicts(), where="true"
    )
    record(made.lake, load(made.config).audit, "20250605T000000-beef", Event("close", "2025-05"))
    (found,) = made.found(FILE.name)
    assert re.fullmatch(
        r"bronze/file batch \d+: its \d+ files are not the \d+ that were read \(event \d+\)", found
    )


def test_a_batch_that_is_being_read_is_recorded_when_it_stands(tmp_path: Path) -> None:
    """Who records beside a run that loads, or after one that was killed in it, does not fix its plan as read."""
    lake = Lake(tmp_path / "lake", {"run_id": "r1", "stage": "bronze"})
    lake.write_rows(RUN, [{"run_id": "r1", "state": "running"}])
    register = FileRegister(lake)

    def batch(number: int, state: str) -> dict[str, object]:
        return {
            "path": f"/landing/{number}",
            "file_id": "ab" * 32,
            "batch": number,
            "state": state,
            "size_bytes": 3,
        }

    register.plan([batch(1, "loaded")])
    register.plan([batch(2, "planned")])
    record(lake, AuditSettings(), "r1")
    assert [row["subject"] for row in events(lake) if row["event_kind"] == "files"] == ["batch 1"]
    with pytest.raises(LakeError, match="no event names a batch"):
        prove_file(lake, "/landing/2")
    register.finish(2, [batch(2, "loaded")])
    record(lake, AuditSettings(), "r1")
    assert [row["subject"] for row in events(lake) if row["event_kind"] == "files"] == ["batch 1", "batch 2"]
    assert list(verify(lake)) == []
    assert '"state":"loaded"' in prove_file(lake, "/landing/2")["file"]
    # A register that was made again from bronze counts its batches anew.
    register.finish(1, [{**batch(1, "loaded"), "path": "(not known)"}])
    record(lake, AuditSettings(), "r1", Event("rebuild", "bronze/file"))
    assert list(verify(lake)) == []


def test_a_raw_file_that_holds_other_bytes_is_named_where_asked(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is gone, or whose place a later delivery took, is none; the bytes are those under the compression."""
    settings = load(made.config)
    landed = SourceLines(made.lake, settings, Landing.of(settings)).lies_there
    seen = Verified()
    assert list(verify(made.lake, (), [made.key], seen, landed=landed)) == []
    loaded = made.lake.read(FILE).filter(state="loaded").sort("size_bytes")
    assert seen.landed == loaded.height > 2
    gone, changed = (Path(path) for path in loaded["path"].to_list()[:2])
    gone.unlink()
    content = changed.read_bytes()
    changed.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    seen = Verified()
    (found,) = (str(one) for one in verify(made.lake, (), [made.key], seen, landed=landed))
    assert found.startswith(f"{changed}: the file ") and found.endswith("(event 1)"), found
    assert seen.landed == loaded.height - 2
    for words, code in ((["--landing"], 1), ([], 0)):
        with pytest.raises(SystemExit) as ended:
            main(["audit", "verify", "--config", str(made.config), "--key", made.key, *words])
        assert ended.value.code == code
        said = capsys.readouterr().out
        assert (str(changed) in said) == bool(words), said


def test_a_published_day_is_computed_again_to_the_last_digit(made: Made, tmp_path: Path) -> None:
    """Each table of published figures, of the second day, which rests on history of the first, its month and year.

    Beside the lake, in which nothing changes.
    """
    settings = load(made.config)
    for day in (SECOND, SECOND.replace(day=1), SECOND.replace(month=1, day=1)):
        tables = reproduced(made.lake, settings, [ALL], day, tmp_path / str(day))
        assert set(tables) >= (PUBLISHED if day == SECOND else {KPI.name}), sorted(tables)
        for name, again in tables.items():
            pairs = again.rows({})
            dated = Days.of(day) if "date" in TABLES[name].columns else None
            assert len(pairs) == made.lake.read(TABLES[name], dated).height, name
            assert all(published == computed for _, published, computed in pairs), name
            assert not any(line.startswith("other ") for line in again.conditions)
    assert made.found() == []


def test_a_reproduction_reads_the_chain_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Lake] = []

    def counted(lake: Lake) -> tuple[list[dict[str, object]], list[Finding]]:
        read.append(lake)
        return read_chain(lake)

    monkeypatch.setattr("lepton_etl.cli.reproduce.read_chain", counted)
    names = [CLUSTER_DAY.name, TENANT_DAY.name]
    assert set(reproduced(made.lake, load(made.config), names, SECOND, tmp_path / "again")) == set(names)
    assert len(read) == 1
    assert len(list((tmp_path / "again").iterdir())) == 1, "the stage of both ran once"


@pytest.mark.slow
def test_fifty_random_figures_of_a_week_are_computed_again(nights: Nights, tmp_path: Path) -> None:
    """Drawn from the week's days, all tables of published figures, rows and columns; nights were made one by one."""
    site, last = tmp_path / "site", FIRST + timedelta(days=6)
    clusters = (
        ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s"),
        ClusterPlan(cluster_id="c02", nodes=2, hardware_class="gpu-400"),
    )
    simulate(FleetPlan(seed=7, first_date=FIRST, days=7, clusters=clusters), site)
    for day in Days(FIRST, last):
        assert nights.run(site / "config.yaml", day, leave_out=LEFT_OUT).exit_code == 0
    lake, settings, draw = Lake(site / "lake"), load(site / "config.yaml"), random.Random(50)
    days = [*Days(FIRST, last), FIRST.replace(day=1)]
    drawn = sorted(draw.choice(days) for _ in range(50))
    for day in sorted(set(drawn)):
        tables = reproduced(lake, settings, [ALL], day, tmp_path / str(day))
        for name in draw.choices(sorted(tables), k=drawn.count(day)):
            key, published, computed = draw.choice(tables[name].rows({}))
            column = draw.choice([column for column, value in published.items() if value is not None])
            assert published[column] == computed[column], (day, name, key, column)
    assert list(verify(lake)) == []


def test_what_is_not_as_it_was_is_named(made: Made, tmp_path: Path) -> None:
    """A figure that was published otherwise, other settings, an input that a retention took, a day that never was."""
    settings = load(made.config)
    other = settings.model_copy(update={"grid": None})
    again = reproduced(made.lake, other, [CLUSTER_DAY.name], SECOND, tmp_path / "other")[CLUSTER_DAY.name]
    assert any(
        line.startswith(f"other settings than then: {settings.digest}, now") for line in again.conditions
    )
    (_, published, computed), *_ = again.rows({"cluster_id": "c01"})
    assert published["it_energy_kwh"] == computed["it_energy_kwh"]
    assert published["emissions_location_kgco2e"] != computed["emissions_location_kgco2e"]
    with pytest.raises(ConfigurationError, match="have no tenant_id"):
        again.rows({"tenant_id": "physics"})
    with pytest.raises(ConfigurationError, match="no stage in the audit chain made gold/nothing"):
        reproduced(made.lake, settings, ["gold/nothing"], SECOND, tmp_path / "none")
    with pytest.raises(LakeError, match="knows no publication of 2025-07-01"):
        reproduced(made.lake, settings, [CLUSTER_DAY.name], date(2025, 7, 1), tmp_path / "never")
    file = next(Path(one.path) for one in made.lake.files(INTERVAL, Days.of(SECOND)))
    file.unlink()
    with pytest.raises(
        LakeError, match=rf"silver/interval version \d+: the file date={SECOND}/part-.* is gone"
    ):
        reproduced(made.lake, settings, [CLUSTER_DAY.name], SECOND, tmp_path / "gone")


def test_without_a_key_the_chain_stands_and_says_so(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake", {"run_id": "r1", "stage": "close"})
    lake.write_rows(RUN, [{"run_id": "r1", "state": "running"}])
    done = record(lake, AuditSettings(), "r1", Event("close", "2025-05", detail={"rows": 3}))
    assert (done.first, done.last) == (1, 1)
    assert list(verify(lake)) == []
    assert head_of(lake.root).signed.root.key == ""
    assert record(lake, AuditSettings(), "r1").last == 1, "nothing new, no event"


def test_the_command_line_says_what_it_found(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 0 and what was read where all is well, 1 and the event where it is not; a proof, and a figure again."""

    def ran(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["audit", *words, "--config", str(made.config)])
        return int(ended.value.code or 0), "".join(capsys.readouterr())

    code, said = ran("verify", "--key", made.key, "--anchor", str(made.anchor))
    assert (code, said.splitlines()[-1]) == (0, "all is as the chain says")
    assert "2 anchored roots" in said
    code, said = ran("verify", "--key", "0" * 64)
    assert code == 1
    assert f"head: it is signed by another key ({made.key})" in said
    code, said = ran("prove", "--event", "2")
    assert (code, json.loads(said)) == (0, prove_event(made.lake, 2))
    code, said = ran("prove")
    assert (code, "give --event or --file" in said) == (2, True)
    code, said = ran("reproduce", "--date", str(SECOND), "--cluster", "c01", "--column", "it_energy_kwh")
    assert (code, said.splitlines()[-1]) == (0, "equal to the last digit")
    assert " it_energy_kwh: published " in said
    code, said = ran("reproduce", "--date", str(SECOND), "--cluster", "c09")
    assert (code, "no row is published under this key" in said) == (1, True)


def days_of_chain(folder: Path, days: int) -> tuple[Lake, AuditSettings, str]:
    """A small lake whose chain got an event on each of some days; its settings and public key."""
    lake = Lake(folder / "lake", {"run_id": "r1", "stage": "close"})
    lake.write_rows(RUN, [{"run_id": "r1", "state": "running"}])
    audit = AuditSettings(key_file=folder / "key")
    public = made_key(folder / "key")
    for day in range(days):
        lake.clock_behind = timedelta(days=day)
        record(lake, audit, "r1", Event("close", f"2025-{day + 1:02d}"))
    return lake, audit, public


def test_the_root_of_a_day_that_is_over_stands_in_the_chain(tmp_path: Path) -> None:
    """It is signed, a proof of that day takes it, and none of its fields can be changed; clocks may be set back."""
    lake, audit, key = days_of_chain(tmp_path, 3)
    assert [row["event_kind"] for row in events(lake)] == ["close", "day_root", "close", "day_root", "close"]
    seen = Verified()
    assert list(verify(lake, (), [key], seen)) == []
    assert seen.days == 3
    proof = prove_event(lake, 1)
    assert proof["signed_root"]["root"]["size"] == 1
    file = next(
        one for one in Path(lake.path(AUDIT)).glob("date=*/*.parquet") if 2 in pl.read_parquet(one)["seq"]
    )  # fmt: skip
    kept = file.read_bytes()
    said = json.loads(str(events(lake)[1]["event_detail"]))
    for name, value in said["root"].items():
        changed = said["root"] | {name: value + 1 if isinstance(value, int) else "0" * 64}
        detail = canonical(said | {"root": changed}).decode()
        edit(file, lambda rows, to=detail: rows.with_columns(
            pl.when(pl.col("seq") == 2).then(pl.lit(to)).otherwise("event_detail").alias("event_detail")
        ))  # fmt: skip
        assert any(one.where.startswith("root of ") and one.event == 2 for one in verify(lake, (), [key])), (
            name
        )
        file.write_bytes(kept)
    lake.clock_behind = timedelta()
    record(lake, audit, "r1", Event("close", "2025-04"))
    times = [row["recorded_time"] for row in events(lake)]
    assert times == sorted(times)  # type: ignore[type-var]
    assert list(verify(lake, (), [key])) == []


def test_a_head_that_was_lost_is_made_again_from_the_chain(tmp_path: Path) -> None:
    lake, audit, key = days_of_chain(tmp_path, 2)
    Path(head_place(lake.root).uri).unlink()
    assert [one.where for one in verify(lake, (), [key])] == ["head", "ops/audit version 2"]
    lake.clock_behind = timedelta(days=2)
    record(lake, audit, "r1", Event("close", "2025-03"))
    assert [row["event_kind"] for row in events(lake)][-3:] == ["day_root", "recovery", "close"]
    assert list(verify(lake, (), [key])) == []


def load_with_key(folder: Path, key: Path) -> Settings:
    """The settings of a small site whose chain is signed by this key."""
    cluster = ClusterPlan(cluster_id="c01", nodes=1, hardware_class="cpu-2s")
    simulate(FleetPlan(seed=1, first_date=FIRST, days=1, clusters=(cluster,)), folder / "site")
    settings = load(folder / "site" / "config.yaml")
    return settings.model_copy(update={"audit": AuditSettings(key_file=key)})


def test_a_key_that_others_may_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    public = made_key(file)
    assert public_key(signing_key(AuditSettings(key_file=file))) == public
    file.chmod(0o640)
    with pytest.raises(ConfigurationError, match="others may read"):
        signing_key(AuditSettings(key_file=file))
    with pytest.raises(ConfigurationError, match="others may read"):
        check(load_with_key(tmp_path, file))
    monkeypatch.setenv("LEPTON_AUDIT_SECRET", "bm90IGEga2V5")
    with pytest.raises(ConfigurationError, match="not a key"):
        signing_key(AuditSettings())


def test_roots_go_to_a_git_repository_of_the_auditors(tmp_path: Path) -> None:
    place = tmp_path / "auditor"
    for command in (
        ["init", "--quiet", str(place)],
        ["-C", str(place), "config", "user.name", "auditor"],
        ["-C", str(place), "config", "user.email", "auditor@example.org"],
    ):
        subprocess.run(["git", *command], check=True)
    lake = Lake(tmp_path / "lake", {"run_id": "r1", "stage": "close"})
    lake.write_rows(RUN, [{"run_id": "r1", "state": "running"}])
    audit = AuditSettings(anchor=place)
    assert record(lake, audit, "r1", Event("close", "2025-05")).notes == ()
    record(lake, audit, "r1", Event("close", "2025-06"))
    roots = anchored(place)
    assert [one.root.last_seq for one in roots] == [1, 2]
    assert list(verify(lake, roots)) == []
    gone = AuditSettings(anchor=tmp_path / "nowhere" / "roots.jsonl")
    (note,) = record(lake, gone, "r1", Event("close", "2025-07")).notes
    assert "the root is not anchored" in note


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_each_leaf_leads_to_the_root_and_no_other_does(count: int) -> None:
    entries = [bytes([number]) for number in range(count)]
    root = root_hash(entries)
    for index, entry in enumerate(entries):
        assert root_by_path(entry, path_of(entries, index)) == root
        assert root_by_path(b"other", path_of(entries, index)) != root


def test_the_tree_is_that_of_rfc_6962() -> None:
    """The test vectors that implementations of Certificate Transparency share."""
    leaves = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ]
    assert root_hash([bytes.fromhex(one) for one in leaves]).hex() == (
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )
    assert root_hash([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_no_event_holds_a_number_that_languages_write_differently(tmp_path: Path) -> None:
    head = Lake(tmp_path).now()
    with pytest.raises(ValueError, match="no whole number"):
        list(chained([Event("close", "2025-05", detail={"share": 0.1})], None, head))
