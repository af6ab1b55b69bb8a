"""The audit chain: what was done to the lake, one event after the other, each with the hash of the one before.

`record` asks the tables' logs which commits the chain does not know yet, and makes events of them and of the rows that
they added to the run record: files, stages, decisions, publications, restatements, runs. So what a killed run committed
is recorded by the next one, and nothing is recorded that was not committed. What the lake does not show is told before
it is done: promotions of models (`champions.py`). One record is one commit of ops/audit; then the head is sealed
(`seal.py`). A commit that no run, or a run that had ended, claims is an event too: `unclaimed`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from lepton_etl.config.sections import AuditSettings
from lepton_etl.days import Days
from lepton_etl.errors import LakeError
from lepton_etl.lake.file_register import FileRegister
from lepton_etl.lake.lease import Lease
from lepton_etl.lake.runs import code_version
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.operations import NIGHT, RUN, STAGE_RUN
from lepton_etl.schema.publication import RESTATEMENT
from lepton_etl.schema.recommend import DECISION
from lepton_etl.schema.trust import AUDIT
from lepton_etl.schema.types import arrow_schema
from lepton_etl.trust.commits import (
    Commit,
    covered_tables,
    later_checkpoint,
    new_commits,
    outputs_of,
    rows_of_new_files,
)
from lepton_etl.trust.merkle import root_hash
from lepton_etl.trust.seal import (
    Head,
    Known,
    Root,
    anchor,
    canonical,
    head_of,
    head_place,
    parsed,
    public_key,
    sign,
    signing_key,
)

NO_EVENT: Final = "0" * 64
# States of a command that writes for long: its first event, and those until its last.
BEGUN: Final = "begun"
GOES_ON: Final = "goes on"
# Begins the subject of an event about a model.
MODEL: Final = "model/"
_LEASE: Final = "audit"
_WAIT_S: Final = 60.0
_JSON: Final = ("event_inputs", "event_outputs", "event_detail")
_TIMES: Final = ("recorded_time", "event_time")


@dataclass(frozen=True)
class Event:
    """What happened: its kind (schema.trust.EVENT_KINDS), what it is about, and what is to be kept of it.

    `detail` holds texts, whole numbers, truth values and null alone: what RFC 8785 writes alike everywhere, and no
    name of a person. The lake's commits under `run_id` that no other event has become its outputs.
    """

    kind: str
    subject: str
    run_id: str | None = None
    time: datetime | None = None
    inputs: Mapping[str, int] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """What one record added: its events' numbers from `first` to `last`, and lines for the operator."""

    first: int
    last: int
    notes: tuple[str, ...] = ()


def record(lake: Lake, audit: AuditSettings, run_id: str, *events: Event) -> Recorded:
    """Add these events, and all that the lake's tables show and the chain does not know yet; then seal the chain.

    `run_id` is who records. Call it when the last commit of what is recorded stands. Raises LakeError, and LockedError
    where another run records for longer than a minute: then nothing is lost, the next record has it.
    """
    with Lease(lake, _LEASE, run_id, wait_s=_WAIT_S):
        return _record(lake, audit, run_id, events)


def _record(lake: Lake, audit: AuditSettings, run_id: str, events: Sequence[Event]) -> Recorded:
    key = signing_key(audit)
    head, recovered = _head(lake, key)
    known = head.known if head is not None else Known()
    found, rewritten = _look(lake, known)
    made = list(_events(lake, run_id, known, found, events, is_first=head is None))
    if not (made or recovered or rewritten):
        last = head.signed.root.last_seq if head is not None else 0
        return Recorded(last + 1, last)
    now, before = lake.now(), head.signed.root if head is not None else None
    if before is not None and now.isoformat() < before.time:
        # What is recorded later stands later, whatever is done to a clock.
        now = datetime.fromisoformat(before.time)
    day = now.date()
    opening = [*recovered, *rewritten]
    if head is not None and before is not None and before.date != day.isoformat():
        opening.insert(0, Event("day_root", before.date, run_id, detail=head.signed.as_json()))
    closing = [*opening, *made]
    # Checkpoints that came after their commits, and the commit of the record before, which that one could not tell of.
    later = {
        name: said for name, one in known.tables.items() if (said := later_checkpoint(lake.root / name, one))
    }
    ending = closing.pop()
    closing.append(replace(ending, outputs=_merged(ending.outputs, later, {AUDIT.name: known.audit})))
    rows = list(chained(closing, before, now))
    chain = lake.saying({"run_id": run_id, "stage": _LEASE})
    chain.append(AUDIT, pa.Table.from_pylist(rows, schema=arrow_schema(AUDIT)))
    kept = {
        name: one for name, one in known.tables.items() if name not in {gone.subject for gone in rewritten}
    }
    known = Known(
        kept
        | {
            name: (*kept[name][:2], said["checkpoints"][str(kept[name][0])])
            for name, said in later.items()
            if name in kept
        }
        | {name: _newest(of) for name, of in found.items()},
        max(
            (json.loads(row["event_detail"])["batch"] for row in rows if row["event_kind"] == "files"),
            default=known.batch,
        ),
        models={**known.models, **champions_of(rows)},
        begun=still_begun(rows, known.begun),
    )
    return Recorded(rows[0]["seq"], rows[-1]["seq"], _seal(lake, audit, key, known, rows, now))


def _seal(
    lake: Lake,
    audit: AuditSettings,
    key: Ed25519PrivateKey | None,
    known: Known,
    rows: Sequence[Mapping[str, Any]],
    now: datetime,
) -> tuple[str, ...]:
    """Write the head, sign and anchor its root; lines for the operator."""
    place = lake.at(AUDIT)
    version = known.tables.get(AUDIT.name)
    (own, _) = new_commits(place, AUDIT.name, version)
    known = replace(
        known,
        tables={**known.tables, AUDIT.name: _newest(own)},
        audit=outputs_of(lake.root, own)[AUDIT.name],
    )
    hashes = lake.read(AUDIT, Days.of(now.date()), columns=["seq", "event_hash"]).sort("seq")
    root = Root(
        date=now.date().isoformat(),
        first_seq=int(hashes["seq"][0]),
        size=hashes.height,
        root=root_hash([bytes.fromhex(one) for one in hashes["event_hash"]]).hex(),
        last_seq=rows[-1]["seq"],
        last_hash=rows[-1]["event_hash"],
        time=now.isoformat(),
        known=known.digest,
        key=public_key(key),
    )
    signed = sign(root, key)
    head_place(lake.root).write(Head(signed, known).text())
    if audit.anchor is None:
        return ()
    try:
        anchor(audit.anchor, signed)
    except LakeError as error:
        # The chain stands; its next root, when the auditor's place is there again, says this one too.
        return (str(error),)
    return ()


def _newest(commits: Sequence[Commit]) -> tuple[int, str, str]:
    return commits[-1].version, commits[-1].sha256, commits[-1].checkpoint or ""


def _merged(*outputs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Several outputs as one; of the same table what is said later goes before."""
    found: dict[str, dict[str, Any]] = {}
    for one in outputs:
        for table, said in one.items():
            of_table = found.setdefault(table, {}) if said else {}
            for name, value in said.items():
                of_table[name] = {**of_table.get(name, {}), **value} if isinstance(value, Mapping) else value
    return found


def chained(events: Iterable[Event], before: Root | None, now: datetime) -> Iterator[dict[str, Any]]:
    """Yield the events as rows of ops/audit that follow the chain's last event."""
    seq, last_hash = (before.last_seq, before.last_hash) if before is not None else (0, NO_EVENT)
    for one in events:
        seq += 1
        row: dict[str, Any] = {
            "seq": seq,
            "date": now.date(),
            "recorded_time": now,
            "event_time": one.time or now,
            "event_kind": one.kind,
            "subject": one.subject,
            "run_id": one.run_id,
            "actor": f"uid {os.getuid()}",
            "code_version": code_version(),
            "previous_hash": last_hash,
        } | {name: canonical(dict(getattr(one, name.removeprefix("event_")))).decode() for name in _JSON}
        _refuse_fractions(one.detail)
        last_hash = sha256(canonical(entry_of(row))).hexdigest()
        yield row | {"event_hash": last_hash}


def _refuse_fractions(value: Any) -> None:
    """Raise ValueError for a number that languages write as different texts: not everybody could check its proof."""
    if isinstance(value, float):
        raise ValueError(f"{value} is no whole number: events hold none else; say it as text")
    for one in (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    ):
        _refuse_fractions(one)


def entry_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of ops/audit as the JSON object whose canonical form is hashed.

    Raises ValueError where a column of JSON is not canonical.
    """
    entry = {name: row[name] for name in AUDIT.columns if name != "event_hash"}
    entry["date"] = row["date"].isoformat()
    for name in _TIMES:
        entry[name] = row[name].astimezone(UTC).isoformat()
    for name in _JSON:
        entry[name] = json.loads(row[name])
        if canonical(entry[name]).decode() != row[name]:
            raise ValueError(f"{name} is not canonical JSON")
    return entry


def _head(lake: Lake, key: Ed25519PrivateKey | None) -> tuple[Head | None, list[Event]]:
    """The chain's head, and an event where it had to be made again from the chain: a record was killed before it.

    Raises LakeError for a chain that cannot be continued.
    """
    chain = lake.at(AUDIT)
    try:
        head = head_of(lake.root)
    except FileNotFoundError:
        if not lake.exists(AUDIT):
            return None, []
        head, why = None, "the head was not there"
    except ValueError as error:
        head, why = None, f"the head could not be read: {error}"
    if head is not None:
        after, _ = new_commits(chain, AUDIT.name, head.known.tables[AUDIT.name])
        if not any(one.stage == _LEASE for one in after):
            return head, []
        why = f"the head knew {head.signed.root.last_seq} events"
    rows = lake.read(AUDIT).sort("seq")
    if rows.is_empty():
        return None, []
    return _head_of(rows, key), [
        Event("recovery", "head", detail={"why": why, "events": int(rows["seq"][-1])})
    ]


def _head_of(rows: pl.DataFrame, key: Ed25519PrivateKey | None) -> Head:
    """The head as the events say it."""
    tables: dict[str, tuple[int, str, str]] = {}
    batch = 0
    for kind, outputs, detail in rows.select("event_kind", "event_outputs", "event_detail").iter_rows():
        for name, said in json.loads(outputs).items():
            version = max(map(int, said["commits"]))
            digest, checkpoint = (
                said["commits"][str(version)],
                said.get("checkpoints", {}).get(str(version), ""),
            )
            tables[name] = (version, digest, checkpoint)
        if kind == "files":
            batch = max(batch, json.loads(detail)["batch"])
    told = rows.to_dicts()
    known = Known(tables, batch, models=champions_of(told), begun=still_begun(told, {}))
    last = rows.row(-1, named=True)
    of_day = rows.filter(date=last["date"])
    root = Root(
        date=last["date"].isoformat(), first_seq=int(of_day["seq"][0]), size=of_day.height,
        root=root_hash([bytes.fromhex(one) for one in of_day["event_hash"]]).hex(),
        last_seq=last["seq"], last_hash=last["event_hash"], time=last["recorded_time"].isoformat(),
        known=known.digest, key=public_key(key),
    )  # fmt: skip
    return Head(sign(root, key), known)


def champions_of(rows: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return model -> number of the last of these events that says which version is champion, and its digest."""
    return {
        row["subject"].removeprefix(MODEL): row["seq"]
        for row in rows
        if row["subject"].startswith(MODEL) and "sha256" in parsed(row["event_detail"])
    }


def still_begun(rows: Iterable[Mapping[str, Any]], before: Mapping[str, str]) -> dict[str, str]:
    """Return kind of event -> run of the command that has begun, by these events, and not ended.

    One that was killed stays until a command of its kind begins anew: its commits are its own till then.
    """
    found = dict(before)
    for row in rows:
        kind, state = row["event_kind"], parsed(row["event_detail"]).get("state")
        if state == BEGUN:
            found[kind] = row["run_id"]
        elif state != GOES_ON and kind in found and found[kind] == row["run_id"]:
            del found[kind]
    return found


def known_champions(lake: Lake) -> Mapping[str, int]:
    """Return what the chain knows of champions, whether its head stands or not. Raises LakeError for a broken chain."""
    head, _ = _head(lake, None)
    return {} if head is None else head.known.models


def _look(lake: Lake, known: Known) -> tuple[dict[str, list[Commit]], list[Event]]:
    """Table -> its commits that the chain does not know; and an event for each table whose known commit is another."""
    found, rewritten = {}, []
    for table in covered_tables():
        before = known.tables.get(table.name)
        commits, is_other = new_commits(lake.at(table), table.name, before)
        if is_other and before is not None:
            detail = {"version": before[0], "sha256": before[1]}
            rewritten.append(Event("rewritten", table.name, detail=detail))
        if commits:
            found[table.name] = commits
    return found, rewritten


def _events(
    lake: Lake,
    run_id: str,
    known: Known,
    found: Mapping[str, list[Commit]],
    events: Sequence[Event],
    *,
    is_first: bool,
) -> Iterator[Event]:
    """The events of what the tables show, in time order, then those that are told."""
    left = [one for commits in found.values() for one in commits]
    # A command that was killed had said what it was about to do.
    own = {run_id, *known.begun.values()}
    runs = _Runs.of(lake, {one.run_id for one in left}, _new(lake, RUN, found), own)
    claimed = [one for one in left if runs.may_claim(one)]
    strange = [one for one in left if not runs.may_claim(one)]
    if is_first and strange:
        # What stood there before the chain is taken as it stands.
        outputs = outputs_of(lake.root, strange)
        yield Event("adoption", f"{len(outputs)} tables", run_id, outputs=outputs)
        strange = []
    # Rows that a stranger added say nothing of the product's runs.
    claims = {name: [one for one in commits if runs.may_claim(one)] for name, commits in found.items()}
    shown = _Shown(lake, claimed)
    # A register that was made again may say another thing of any batch.
    shown.files(0 if any(one.kind == "rebuild" for one in events) else known.batch, claims)
    shown.stages(_new(lake, STAGE_RUN, claims))
    shown.decisions(_new(lake, DECISION, claims))
    shown.publications(claims.get(NIGHT.name, ()))
    shown.restatements(claims.get(RESTATEMENT.name, ()))
    shown.runs(_new(lake, RUN, claims))
    told = [replace(one, run_id=one.run_id or run_id) for one in events]
    told = [replace(one, outputs={**shown.take_of_run(one.run_id), **one.outputs}) for one in told]
    yield from sorted(shown.events, key=lambda one: one.time or lake.now())
    yield from _grouped("commits", shown.left, lake)
    yield from _grouped("unclaimed", strange, lake)
    yield from told


def _grouped(kind: str, commits: Iterable[Commit], lake: Lake) -> Iterator[Event]:
    """An event for the commits of each run and stage."""
    groups: dict[tuple[str, str], list[Commit]] = {}
    for one in commits:
        groups.setdefault((one.run_id, one.stage), []).append(one)
    for (run_id, stage), of_group in groups.items():
        outputs = outputs_of(lake.root, of_group)
        who = f"{run_id} {stage}".strip() or "no run"
        yield Event(kind, who, run_id or None, max(one.time for one in of_group), outputs=outputs)


@dataclass(frozen=True)
class _Runs:
    """Which runs may have written what is new: those that have not ended, or whose end is new itself."""

    open: frozenset[str]

    @classmethod
    def of(cls, lake: Lake, named: set[str], new: list[dict[str, Any]], own: set[str]) -> _Runs:
        rows = lake.arrow(
            RUN, where=pc.field("run_id").isin(pa.array(sorted(named), pa.string()))
        ).to_pylist()
        ended_now = {row["run_id"] for row in new if row["state"] != "running"}
        ended = {row["run_id"] for row in rows if row["state"] != "running"} - ended_now
        return cls(frozenset({row["run_id"] for row in rows} - ended | own))

    def may_claim(self, commit: Commit) -> bool:
        # A run records its own end: the commit that does so comes after it.
        return commit.run_id in self.open or (commit.table, commit.stage) == (AUDIT.name, _LEASE)


class _Shown:
    """Events made of what the tables show; each takes the commits that are its own, and `left` are those of none."""

    def __init__(self, lake: Lake, commits: Sequence[Commit]) -> None:
        self.lake = lake
        self.left = list(commits)
        self.events: list[Event] = []

    def take(self, mine: Callable[[Commit], bool]) -> dict[str, Any]:
        """Take the commits that are so and return them as outputs."""
        taken = [one for one in self.left if mine(one)]
        self.left = [one for one in self.left if not mine(one)]
        return outputs_of(self.lake.root, taken)

    def take_of_run(self, run_id: str | None) -> dict[str, Any]:
        """Take what is left of the commits of a run."""
        return self.take(lambda one: one.run_id == run_id)

    def files(self, batch: int, found: Mapping[str, list[Commit]]) -> None:
        """An event for each batch of raw files, with the Merkle root of what they are."""
        if not found.get(FILE.name):
            return
        rows = FileRegister(self.lake).since(batch, ["batch", *FILE_COLUMNS, "ingest_time"])
        for (number,), of_batch in sorted(rows.partition_by("batch", as_dict=True).items()):
            if "planned" in of_batch["state"]:
                # Not read yet, or by a run that was killed: what becomes of it is recorded when it stands.
                break
            entries, read = file_entries(of_batch), max(of_batch["ingest_time"].drop_nulls(), default=None)
            states = dict(sorted(of_batch["state"].value_counts().iter_rows()))
            detail = {
                "batch": number,
                "files": len(entries),
                "states": states,
                "root": root_hash(entries).hex(),
            }
            self.events.append(Event("files", f"batch {number}", None, read, detail=detail))

    def stages(self, rows: list[dict[str, Any]]) -> None:
        """An event for each stage of a run."""
        for row in sorted(rows, key=lambda row: row["end_time"]):
            inputs, after = (
                json.loads(row["input_versions"] or "{}"),
                json.loads(row["table_versions"] or "{}"),
            )

            def mine(one: Commit, row: Mapping[str, Any] = row, after: Mapping[str, int] = after) -> bool:
                is_stage = (one.run_id, one.stage) == (row["run_id"], row["stage"])
                return is_stage and one.version <= after.get(one.table, one.version)

            subject = f"{row['stage']} {Days(row['date_from'], row['date_until'])}"
            detail = {name: row[name] for name in ("stage", "state", "rows_in", "rows_out", "code_version")}
            detail |= {name: row[name].isoformat() for name in ("date_from", "date_until")}
            outputs = self.take(mine)
            stage = Event("stage", subject, row["run_id"], row["end_time"], inputs, outputs, detail)
            self.events.append(stage)

    def decisions(self, rows: list[dict[str, Any]]) -> None:
        """An event for each decision on a recommendation; who took it stands in ops/decision."""
        for row in rows:
            time, detail = row["decided_time"], {"decision": row["decision"]}
            outputs = self.take(lambda one: one.stage == "decide")
            self.events.append(
                Event("recommendation", row["recommendation_id"], None, time, {}, outputs, detail)
            )

    def publications(self, commits: Iterable[Commit]) -> None:
        """An event for each published day: the versions of the tables that belong together."""
        for commit, path, action in rows_of_new_files(self.lake.root, commits):
            (row,) = _rows(self.lake, path, ["published_time", "run_id", "table_versions", "file_digests"])
            versions, digests = json.loads(row["table_versions"]), json.loads(row["file_digests"])
            outputs = self.take(commit.__eq__)
            self.events.append(
                Event(
                    "publication", action["partitionValues"]["date"], row["run_id"], row["published_time"],
                    versions, outputs, {"file_digests": digests},
                )
            )  # fmt: skip

    def restatements(self, commits: Iterable[Commit]) -> None:
        """An event for each publication that changed figures which had been published."""
        for commit in commits:
            if commit.rows_added:
                detail = {
                    "publication_id": commit.info.get("publication_id", ""),
                    "figures": commit.rows_added,
                }
                subject = f"{commit.rows_added} figures"
                self.events.append(Event("restatement", subject, commit.run_id, commit.time, detail=detail))

    def runs(self, rows: list[dict[str, Any]]) -> None:
        """An event for the end of each run, with its commits that belong to no stage."""
        for row in rows:
            if row["state"] == "running":
                continue
            run_id = row["run_id"]
            named = ("state", "exit_code", "settings_hash", "stage", "code_version")
            detail = {name: row[name] for name in named}
            outputs = self.take_of_run(run_id)
            subject = f"{row['stage'] or 'night'} {Days(row['date_from'], row['date_until'])}"
            time = row["end_time"] or self.lake.now()
            self.events.append(Event("run", subject, run_id, time, {}, outputs, detail))


FILE_COLUMNS: Final = ("path", "file_id", "state", "size_bytes")


def file_entries(rows: pl.DataFrame) -> list[bytes]:
    """Return the rows of bronze/file of a batch as the leaves of the tree that its event names."""
    return sorted(canonical(row) for row in rows.select(FILE_COLUMNS).to_dicts())


def _new(lake: Lake, table: Any, found: Mapping[str, list[Commit]]) -> list[dict[str, Any]]:
    """The rows that new commits appended to a table of the run record."""
    files = rows_of_new_files(lake.root, found.get(table.name, ()))
    return [row for _, path, _ in files for row in _rows(lake, path, list(table.columns))]


def _rows(lake: Lake, path: str, columns: list[str]) -> list[dict[str, Any]]:
    """The rows of a file; a column that it lacks is null. None where it was put together with others since."""
    try:
        rows = pl.read_parquet(path, glob=False, storage_options=lake.root.storage_options)
    except FileNotFoundError:
        return []
    lacking = [pl.lit(None).alias(name) for name in columns if name not in rows.columns]
    return rows.with_columns(lacking).select(columns).to_dicts()
