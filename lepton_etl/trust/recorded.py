"""The lake as it stood when a stage made a day's figures, put together again in a folder of its own.

The audit chain says which versions the stage read and which stood beside it. Their logs are copied up to these versions
and their files linked, so that the stage's own code runs on what it ran on, and writes beside the lake. What a
retention has taken away is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
from deltalake.exceptions import DeltaError

from lepton_etl.days import Days
from lepton_etl.errors import LakeError
from lepton_etl.lake.location import Location
from lepton_etl.lake.log_files import open_log
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.operations import STAGE_RUN
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.trust import AUDIT
from lepton_etl.trust.commits import LOG
from lepton_etl.trust.seal import parsed

_MODEL: Final = "model/"


@dataclass(frozen=True)
class Made:
    """How a day's figures were made: the event of the stage, and what it ran on.

    `versions` is table -> Delta version that the stage found; `published` the version that holds what it made.
    """

    event: int
    publication: int
    first: date
    last: date
    code_version: str
    settings_hash: str
    versions: Mapping[str, int]
    published: Mapping[str, int]
    models: Mapping[str, int]


def stages_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return gold table -> the stage that made it last, as the chain's events say."""
    return {
        table: str(parsed(row["event_detail"])["stage"])
        for row in rows
        if row["event_kind"] == "stage"
        for table in parsed(row["event_outputs"])
        if table.startswith("gold/")
    }


def how_made(
    rows: Sequence[Mapping[str, Any]], stage: str, within: Days, published: date | None = None
) -> Made:
    """Return how a stage made the figures of these days that are published: as the chain's events say.

    `published` is the date under which they are, None of a table without dates. Raises LakeError where nothing says it.
    """
    publication = _last(
        row
        for row in rows
        if row["event_kind"] == "publication" and (published is None or row["subject"] == str(published))
    )
    made = (
        None
        if publication is None
        else _last(row for row in rows if _is_stage(row, stage, within, publication))
    )
    if publication is None or made is None:
        what = f"publication of {published}" if publication is None else f"stage {stage} of {within}"
        raise LakeError(
            f"the audit chain knows no {what}", where=AUDIT.name, remedy="it began later; or the day was never made"
        )  # fmt: skip
    run = _last(row for row in rows if row["event_kind"] == "run" and row["run_id"] == made["run_id"])
    detail, inputs = parsed(made["event_detail"]), parsed(made["event_inputs"])
    return Made(
        event=made["seq"],
        publication=publication["seq"],
        first=date.fromisoformat(detail["date_from"]),
        last=date.fromisoformat(detail["date_until"]),
        code_version=detail["code_version"],
        settings_hash=parsed(run["event_detail"])["settings_hash"] if run is not None else "",
        versions=_versions(rows, made),
        published=parsed(publication["event_inputs"]),
        models={name: version for name, version in inputs.items() if name.startswith(_MODEL)},
    )


def _versions(rows: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> dict[str, int]:
    """Table -> version that the stage found: the one before its own first, else what it read, else what stood then."""
    found: dict[str, int] = {}
    for row in rows:
        if row["seq"] >= made["seq"]:
            break
        for name, said in parsed(row["event_outputs"]).items():
            found[name] = max(map(int, said["commits"]))
    inputs, outputs = parsed(made["event_inputs"]), parsed(made["event_outputs"])
    found |= {name: version for name, version in inputs.items() if name in TABLES}
    found |= {name: min(map(int, said["commits"])) - 1 for name, said in outputs.items()}
    # What the stage said of itself names the models that it took: made again, it takes those.
    if STAGE_RUN.name in outputs:
        found[STAGE_RUN.name] = max(map(int, outputs[STAGE_RUN.name]["commits"]))
    return {name: version for name, version in found.items() if version >= 0 and name != AUDIT.name}


def rebuild(lake: Lake, versions: Mapping[str, int], folder: Path) -> list[str]:
    """Make the tables at these versions below an empty folder; a line for each file or log that is gone."""
    missing: list[str] = []
    for name, version in sorted(versions.items()):
        missing += _rebuild(lake.root / name, name, version, folder / name)
    return missing


def _rebuild(place: Location, name: str, version: int, folder: Path) -> list[str]:
    try:
        log = open_log(place, version)
        paths = [unquote(one) for one in pa.table(log.get_add_actions(flatten=True))["path"].to_pylist()]
    except (DeltaError, OSError, ValueError) as error:
        return [
            f"{name} version {version}: its log is gone ({next(iter(str(error).splitlines()), '')[:120]})"
        ]
    (folder / LOG).mkdir(parents=True)
    for file in (place / LOG).names():
        number = file.partition(".")[0]
        if number.isdecimal() and int(number) <= version:
            _put(place / LOG / file, folder / LOG / file)
    missing = []
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            _put(place / path, target)
        except FileNotFoundError:
            missing.append(f"{name} version {version}: the file {path} is gone, as a retention takes it")
    return missing


def _put(source: Location, target: Path) -> None:
    """Link a file of a folder, fetch an object. Raises FileNotFoundError."""
    if source.is_local:
        target.symlink_to(Path(source.uri).resolve(strict=True))
    else:
        target.write_bytes(source.read()[0])


def _is_stage(row: Mapping[str, Any], stage: str, within: Days, before: Mapping[str, Any]) -> bool:
    if row["event_kind"] != "stage" or row["seq"] > before["seq"]:
        return False
    said = parsed(row["event_detail"])
    is_done = (said["stage"], said["state"]) == (stage, "done")
    return is_done and bool(said["date_from"] <= str(within.end) and said["date_until"] >= str(within.start))


def _last(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    found = None
    for row in rows:
        found = row
    return found
