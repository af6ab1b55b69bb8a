"""What stands in the logs of the tables and the audit chain does not know yet: commits, by whom, and their hashes.

A commit's SHA-256 vouches for the files that it names: the name of a staged file holds the file's own. Of files that
delta-rs named itself the SHA-256 is taken here. Each table costs a look whether the version after the known one is
there: nothing grows with history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from lepton_etl.errors import LakeError
from lepton_etl.lake.location import Location
from lepton_etl.lake.staging import sha256_of_name
from lepton_etl.schema.declare import Table
from lepton_etl.schema.tables import TABLES

LOG: Final = "_delta_log"
HINT: Final = "_last_checkpoint"
COMMIT: Final = re.compile(r"(\d{20})\.json")
CHECKPOINT: Final = re.compile(r"(\d{20})\.checkpoint\.parquet")


@dataclass(frozen=True, slots=True)
class Commit:
    """One version of a table: who wrote it, its SHA-256, and those of its files whose names say none."""

    table: str
    version: int
    sha256: str
    time: datetime
    info: Mapping[str, Any]
    added: Sequence[Mapping[str, Any]] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    checkpoint: str | None = None

    @property
    def run_id(self) -> str:
        return str(self.info.get("run_id", ""))

    @property
    def stage(self) -> str:
        return str(self.info.get("stage", ""))

    @property
    def rows_added(self) -> int:
        return sum(json.loads(one.get("stats") or "{}").get("numRecords", 0) for one in self.added)


def audited(table: Table) -> bool:
    """Return whether the chain covers a table: all but those that are replaced every minute, whose log is not kept."""
    return table.log_days is None


def covered_tables() -> list[Table]:
    """Return the tables that the chain covers."""
    return [table for table in TABLES.values() if audited(table)]


def new_commits(place: Location, table: str, known: tuple[int, str, str] | None) -> tuple[list[Commit], bool]:
    """Return the commits after the known one in time order, and whether the known one is no longer what it was.

    Then the log was made anew or edited, and all that stands in it is returned.
    """
    log, is_other = place / LOG, False
    first, digest = (0, None) if known is None else (known[0] + 1, sha256_of(log / f"{known[0]:020d}.json"))
    if digest is None and (known is not None or not (log / f"{first:020d}.json").exists()):
        # The commits before a checkpoint were removed: they have expired, or a person was forgotten.
        standing = [int(named[1]) for name in log.names() if (named := COMMIT.fullmatch(name))]
        is_other = known is not None and min(standing, default=0) <= known[0]
        first = min(standing, default=0)
    elif known is not None and digest != known[1]:
        first, is_other = 0, True
    found: list[Commit] = []
    while (commit := read_commit(place, table, first + len(found))) is not None:
        found.append(commit)
    return found, is_other


def read_commit(place: Location, table: str, version: int) -> Commit | None:
    """Return one version as it stands, None where there is none. Raises LakeError for a torn one."""
    file = place / LOG / f"{version:020d}.json"
    try:
        content = file.read()[0]
    except FileNotFoundError:
        return None
    try:
        info, added = actions_of(content)
    except (ValueError, AttributeError, TypeError) as error:
        raise LakeError(
            "the commit is torn", where=str(file), remedy="restore that file from a copy of the lake"
        ) from error
    files = {}
    for one in added:
        path = unquote(one["path"])
        # A file that is gone was put together with others since, under a later commit.
        if sha256_of_name(path) is None and (digest := sha256_of(place / path)) is not None:
            files[path] = digest
    return Commit(
        table=table,
        version=version,
        sha256=sha256(content).hexdigest(),
        time=datetime.fromtimestamp(int(info.get("timestamp", 0)) / 1000, UTC),
        info=info,
        added=added,
        files=files,
        checkpoint=sha256_of(place / LOG / f"{version:020d}.checkpoint.parquet"),
    )


def actions_of(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what a commit says of itself, and the files that it adds. Raises ValueError for a torn one."""
    actions = [json.loads(line) for line in content.splitlines() if line.strip()]
    info: dict[str, Any] = next((one["commitInfo"] for one in actions if "commitInfo" in one), {})
    return info, [one["add"] for one in actions if "add" in one]


def outputs_of(root: Location, commits: Iterable[Commit]) -> dict[str, dict[str, Any]]:
    """Return the commits as an event's `outputs` says them."""
    found: dict[str, dict[str, Any]] = {}
    for one in commits:
        said = found.setdefault(one.table, {"commits": {}})
        said["commits"][str(one.version)] = one.sha256
        if one.files:
            said.setdefault("files", {}).update(one.files)
        if one.checkpoint is not None:
            said.setdefault("checkpoints", {})[str(one.version)] = one.checkpoint
            hint = sha256_of(root / one.table / LOG / HINT)
            if hint is not None:
                said["hint"] = hint
    return found


def later_checkpoint(place: Location, known: tuple[int, str, str]) -> dict[str, Any] | None:
    """Return, as an event's `outputs` says it, the checkpoint of a known commit that had none yet; None without."""
    version, digest, checkpoint = known
    if checkpoint:
        return None
    found = sha256_of(place / LOG / f"{version:020d}.checkpoint.parquet")
    if found is None:
        return None
    hint = sha256_of(place / LOG / HINT)
    said = {"commits": {str(version): digest}, "checkpoints": {str(version): found}}
    return said | ({"hint": hint} if hint is not None else {})


def rows_of_new_files(
    root: Location, commits: Iterable[Commit]
) -> Iterator[tuple[Commit, str, Mapping[str, Any]]]:
    """Yield each file that the commits added with new rows: commit, its path or URI, and its action."""
    for commit in commits:
        for one in commit.added:
            if one.get("dataChange", True):
                yield commit, (root / commit.table / unquote(one["path"])).uri, one


def sha256_of(place: Location) -> str | None:
    """Return the SHA-256 of a file, None where there is none."""
    try:
        if place.is_local:
            with Path(place.uri).open("rb") as file:
                return file_digest(file, "sha256").hexdigest()
        return sha256(place.read()[0]).hexdigest()
    except FileNotFoundError:
        return None
