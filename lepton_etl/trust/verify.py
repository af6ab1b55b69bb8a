"""Check a lake against its audit chain: the chain itself, its roots, and every file of every table that it covers.

Found are an event that was edited, removed or put elsewhere; a chain that ends before, or differs from, a root that was
anchored; a head that is not what was sealed; a version, checkpoint or table that the chain does not know, or knows
otherwise; a data file that is gone or differs; a champion of the model registry that no event made one, or files of a
model that differ; a batch of raw files that is not the one which its event names, and, where asked, a raw file that
holds other bytes than were loaded. Each finding names the event that says what must stand.
Not covered are tables that are replaced every minute (gold/device_now), leases, files that no version names, and the
sealed map of names, which its own key vouches for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lepton_etl.errors import LeptonError
from lepton_etl.lake.location import Location
from lepton_etl.lake.staging import sha256_of_name
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.trust import AUDIT
from lepton_etl.schema.types import arrow_schema
from lepton_etl.trust.chain import FILE_COLUMNS, MODEL, NO_EVENT, champions_of, entry_of, file_entries
from lepton_etl.trust.commits import CHECKPOINT, COMMIT, HINT, LOG, actions_of, audited, sha256_of
from lepton_etl.trust.merkle import root_hash
from lepton_etl.trust.seal import Head, SignedRoot, canonical, head_of, parsed

if TYPE_CHECKING:
    from lepton_etl.models.registry import Registry
    from lepton_etl.models.stored import Version

_CHUNK_FILES: Final = 200_000
# Events that tell of something that no run of the product does.
_STRANGE: Final = {
    "unclaimed": "commits that no run claims",
    "rewritten": "the table's log was no longer what it had been",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong, where, and the number of the event that says what must stand; None where none does."""

    where: str
    what: str
    event: int | None = None

    def __str__(self) -> str:
        named = "" if self.event is None else f" (event {self.event})"
        return f"{self.where}: {self.what}{named}"


@dataclass
class Verified:
    """What was looked at, for the last line."""

    events: int = 0
    days: int = 0
    tables: int = 0
    commits: int = 0
    files: int = 0
    batches: int = 0
    landed: int = 0
    models: int = 0
    anchored: int = 0
    signed_by: str = ""
    expired: int = 0


@dataclass
class _Known:
    """What the chain says of one table: of each the SHA-256 and the event, the newest word last."""

    commits: dict[int, tuple[str, int]] = field(default_factory=dict)
    checkpoints: dict[int, tuple[str, int]] = field(default_factory=dict)
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    hint: tuple[str, int] | None = None

    def add(self, said: Mapping[str, Any], event: int) -> None:
        self.commits |= {int(version): (digest, event) for version, digest in said["commits"].items()}
        self.checkpoints |= {
            int(version): (digest, event) for version, digest in said.get("checkpoints", {}).items()
        }
        self.files |= {path: (digest, event) for path, digest in said.get("files", {}).items()}
        if "hint" in said:
            self.hint = (said["hint"], event)


def verify(
    lake: Lake,
    anchors: Iterable[SignedRoot] = (),
    keys: Collection[str] = (),
    seen: Verified | None = None,
    only: Collection[str] = (),
    registry: Registry | None = None,
    own_models: Collection[str] = (),
    landed: Callable[[Mapping[str, Any]], bool] | None = None,
) -> Iterator[Finding]:
    """Yield what is wrong; a lake that is as the chain says yields nothing. `seen` is filled with what was looked at.

    One of `keys` (public, hex) must have signed every root, where any is given. `only` names tables whose files are
    read; the chain is always. A registry is held against the events of its models, of which `own_models` are the
    site's whether an event names them or not. `landed` opens the raw file of a row of bronze/file, and says whether it
    still lies there; it raises LeptonError where that file holds other bytes.
    """
    seen = seen if seen is not None else Verified()
    rows, unread = read_chain(lake)
    yield from unread
    if not rows:
        if not unread:
            yield Finding(AUDIT.name, "there is no audit chain")
        return
    seen.events = len(rows)
    yield from _links(rows)
    yield from _roots(rows, keys, seen)
    head = yield from _head(lake, rows, keys, seen)
    yield from _anchors(rows, anchors, keys, seen)
    known: dict[str, _Known] = {}
    for row in rows:
        for name, said in parsed(row["event_outputs"]).items():
            known.setdefault(name, _Known()).add(said, row["seq"])
    if head is not None:
        known.setdefault(AUDIT.name, _Known()).add(head.known.audit, rows[-1]["seq"])
    for name in sorted({*known, *_tables_of(lake.root)}):
        if (not only or name in only) and (name not in TABLES or audited(TABLES[name])):
            yield from _table(lake.root / name, name, known.get(name, _Known()), seen)
    if not only or FILE.name in only:
        yield from _batches(lake, rows, seen, landed)
    if registry is not None:
        try:
            yield from _models(rows, registry, own_models, seen)
        except LeptonError as error:
            yield Finding("model registry", error.what)


def read_chain(lake: Lake) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Return the events in their order, those of files that are not what was written too, and what cannot be read."""
    place = lake.at(AUDIT)
    if not lake.exists(AUDIT):
        return [], []
    try:
        paths = DeltaTable(place.uri, storage_options=place.storage_options).file_uris()
    except (DeltaError, OSError, ValueError) as error:
        return [], [Finding(AUDIT.name, f"the log cannot be read: {_line(error)}")]
    parts, wrong = [pl.DataFrame(arrow_schema(AUDIT).empty_table())], []
    for path in paths:
        try:
            rows = pl.read_parquet(path, glob=False, storage_options=place.storage_options)
            day = pl.lit(path.rsplit("date=", 1)[-1][:10]).str.to_date().alias("date")
            parts.append(rows.with_columns(day).select(AUDIT.columns).cast(dict(parts[0].schema)))  # type: ignore[arg-type]
        except (OSError, pl.exceptions.PolarsError) as error:
            wrong.append(Finding(AUDIT.name, f"{Path(path).name} cannot be read: {_line(error)}"))
    return pl.concat(parts).sort("seq").to_dicts(), wrong


def _links(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Every event: its own hash, that it follows the one before, and what it tells of strangers."""
    before, last, time = 0, NO_EVENT, None
    acknowledged = {
        parsed(row["event_detail"]).get("event") for row in rows if row["event_kind"] == "acknowledgement"
    }
    for row in rows:
        seq = row["seq"]
        if seq != before + 1:
            missing = f"{before + 1} to {seq - 1}" if seq > before + 1 else f"{seq} stands twice"
            yield Finding(AUDIT.name, f"events are not one after the other: {missing}", before + 1)
        if row["previous_hash"] != last:
            yield Finding(AUDIT.name, "the event does not follow the one before it", seq)
        try:
            is_own = sha256(canonical(entry_of(row))).hexdigest() == row["event_hash"]
        except ValueError:
            is_own = False
        if not is_own:
            yield Finding(AUDIT.name, "the event was edited: its hash does not fit", seq)
        if time is not None and row["recorded_time"] < time:
            yield Finding(AUDIT.name, "the event is recorded before the one before it", seq)
        if row["event_kind"] in _STRANGE and seq not in acknowledged:
            is_model = row["subject"].startswith(MODEL)
            what = "its champion was made by no run" if is_model else _STRANGE[row["event_kind"]]
            yield Finding(row["subject"], what, seq)
        before, last, time = seq, row["event_hash"], row["recorded_time"]


def _roots(rows: Sequence[Mapping[str, Any]], keys: Collection[str], seen: Verified) -> Iterator[Finding]:
    """The root of each day that is over, as the first event of a later day says it."""
    told = set()
    for row in rows:
        if row["event_kind"] != "day_root":
            continue
        told.add(row["subject"])
        try:
            signed = SignedRoot.of_json(parsed(row["event_detail"]))
        except ValueError as error:
            yield Finding(f"root of {row['subject']}", str(error), row["seq"])
            continue
        for what in _wrong_root(rows, signed, keys):
            yield Finding(f"root of {row['subject']}", what, row["seq"])
    days = {row["date"].isoformat() for row in rows}
    for day in sorted(days - told - {rows[-1]["date"].isoformat()}):
        yield Finding(f"root of {day}", "no event says it")
    seen.days = len(days)


def _wrong_root(
    rows: Sequence[Mapping[str, Any]], signed: SignedRoot, keys: Collection[str]
) -> Iterator[str]:
    """What is wrong with a signed root, held against the events."""
    what = signed.wrong(keys)
    if what is not None:
        yield what
    root = signed.root
    if root.last_seq > rows[-1]["seq"]:
        yield f"the chain is cut: it ends with event {rows[-1]['seq']}, the root knows {root.last_seq}"
        return
    of_day = [one for one in rows if root.first_seq <= one["seq"] <= root.last_seq]
    if not of_day or of_day[-1]["event_hash"] != root.last_hash:
        yield f"the chain is another: event {root.last_seq} has another hash"
        return
    try:
        leaves = [bytes.fromhex(one["event_hash"]) for one in of_day]
    except ValueError:
        leaves = []
    if len(leaves) != root.size or root_hash(leaves).hex() != root.root:
        yield "the events of the day do not give it"


def _head(
    lake: Lake, rows: Sequence[Mapping[str, Any]], keys: Collection[str], seen: Verified
) -> Generator[Finding, None, Head | None]:
    """The head: what was sealed last; returned where it can be read."""
    try:
        head = head_of(lake.root)
    except (OSError, ValueError) as error:
        yield Finding("head", f"it is not what was sealed: {_line(error)}", rows[-1]["seq"])
        return None
    seen.signed_by = head.signed.root.key
    for what in _wrong_root(rows, head.signed, keys):
        yield Finding("head", what, head.signed.root.last_seq)
    if rows[-1]["seq"] > head.signed.root.last_seq:
        yield Finding(
            "head", f"it knows {head.signed.root.last_seq} events: the others are not sealed yet; the next run does it",
            rows[-1]["seq"],
        )  # fmt: skip
    return head


def _anchors(
    rows: Sequence[Mapping[str, Any]],
    anchors: Iterable[SignedRoot],
    keys: Collection[str],
    seen: Verified,
) -> Iterator[Finding]:
    """The roots that the auditor holds: fork and truncation."""
    for number, signed in enumerate(anchors, 1):
        seen.anchored = number
        for what in _wrong_root(rows, signed, keys):
            yield Finding(f"anchored root {number} of {signed.root.date}", what, signed.root.last_seq)


def _table(place: Location, name: str, known: _Known, seen: Verified) -> Iterator[Finding]:
    """The log and the data files of one table."""
    log = place / LOG
    names = log.names()
    if not names:
        if known.commits:
            newest = max(known.commits)
            yield Finding(f"{name} version {newest}", "the table's log is gone", known.commits[newest][1])
        return
    seen.tables += 1
    added: dict[str, int] = {}
    standing = set()
    checkpoints = set()
    for file in names:
        if found := COMMIT.fullmatch(file):
            standing.add(int(found[1]))
            yield from _commit(
                log / file, f"{name} version {int(found[1])}", int(found[1]), known, added, seen
            )
        elif found := CHECKPOINT.fullmatch(file):
            checkpoints.add(int(found[1]))
            yield from _is_known(
                log / file, f"{name} checkpoint {int(found[1])}", known.checkpoints.get(int(found[1]))
            )
        elif file == HINT:
            yield from _is_known(log / file, f"{name} {HINT}", known.hint)
        elif not file.startswith((".", "_")):
            yield Finding(f"{name} {LOG}/{file}", "the chain does not know this file")
    # Commits before a checkpoint expire; those after it may not be missing.
    start = max((one for one in checkpoints if one not in standing or one in known.checkpoints), default=-1)
    for version in sorted(set(known.commits) - standing):
        if version > start or any(one < version for one in standing):
            yield Finding(f"{name} version {version}", "the commit is gone", known.commits[version][1])
        else:
            seen.expired += 1
    yield from _data(place, name, known, added, seen)


def _commit(
    file: Location, where: str, version: int, known: _Known, added: dict[str, int], seen: Verified
) -> Iterator[Finding]:
    content = file.read()[0]
    seen.commits += 1
    said = known.commits.get(version)
    try:
        info, files = actions_of(content)
    except (ValueError, AttributeError, TypeError):
        info, files = {}, []
    if said is None:
        claims = f"it names run {info['run_id']}" if info.get("run_id") else "it names no run"
        yield Finding(where, f"the chain does not know this version; {claims}")
    elif sha256(content).hexdigest() != said[0]:
        yield Finding(where, "the commit was edited: its SHA-256 differs", said[1])
    else:
        added |= {unquote(one["path"]): said[1] for one in files}


def _is_known(file: Location, where: str, said: tuple[str, int] | None) -> Iterator[Finding]:
    if said is None:
        yield Finding(where, "the chain does not know it")
    elif sha256_of(file) != said[0]:
        yield Finding(where, "it was edited: its SHA-256 differs", said[1])


def _data(
    place: Location, name: str, known: _Known, added: Mapping[str, int], seen: Verified
) -> Iterator[Finding]:
    """The files of the newest version, which must stand, and of older ones as far as they do."""
    try:
        actions = pa.table(
            DeltaTable(place.uri, storage_options=place.storage_options).get_add_actions(flatten=True)
        )
        newest = {unquote(one) for one in actions["path"].to_pylist()}
    except Exception as error:  # whatever a damaged log makes of its reader
        yield Finding(name, f"the newest version cannot be read: {_line(error)}")
        newest = set()
    last = known.commits[max(known.commits)][1] if known.commits else None
    for path in sorted({*newest, *added}):
        event = added.get(path, last)
        wanted = sha256_of_name(path)
        if wanted is None and path in known.files:
            wanted, event = known.files[path]
        digest = sha256_of(place / path)
        if digest is None:
            if path in newest:
                yield Finding(f"{name} {path}", "the file is gone", event)
            continue
        seen.files += 1
        if wanted is None:
            yield Finding(f"{name} {path}", "the chain does not know this file")
        elif digest != wanted:
            yield Finding(f"{name} {path}", "the file differs: its SHA-256 is another", event)


def _batches(
    lake: Lake,
    rows: Sequence[Mapping[str, Any]],
    seen: Verified,
    landed: Callable[[Mapping[str, Any]], bool] | None,
) -> Iterator[Finding]:
    """Each batch of raw files: its rows in the register give the root that its last event names."""
    told = {said["batch"]: (said, row["seq"]) for row in rows if row["event_kind"] == "files"
            for said in (parsed(row["event_detail"]),)}  # fmt: skip
    for numbers in _chunks(told):
        within = (pc.field("batch") >= numbers[0]) & (pc.field("batch") <= numbers[-1])
        columns = ["batch", "source_name", "modified_time", *FILE_COLUMNS]
        try:
            register = lake.read(FILE, columns=columns, where=within).partition_by("batch", as_dict=True)
        except Exception as error:  # whatever a damaged log or file makes of its reader
            yield Finding(FILE.name, f"its batches cannot be read: {_line(error)}")
            return
        for number in numbers:
            (said, event), of_batch = told[number], register.get((number,))
            entries = file_entries(of_batch) if of_batch is not None else []
            if root_hash(entries).hex() != said["root"]:
                what = f"its {len(entries)} files are not the {said['files']} that were read"
                yield Finding(f"{FILE.name} batch {number}", what, event)
            seen.batches += 1
            if landed is None or of_batch is None:
                continue
            for row in of_batch.filter(state="loaded").iter_rows(named=True):
                try:
                    seen.landed += landed(row)
                except LeptonError as error:
                    yield Finding(row["path"], error.what, event)


def _chunks(told: Mapping[int, tuple[Mapping[str, Any], int]]) -> Iterator[list[int]]:
    """The batches in their order, so many together that their files fit into memory."""
    chunk, files = list[int](), 0
    for number in sorted(told):
        chunk, files = [*chunk, number], files + told[number][0]["files"]
        if files >= _CHUNK_FILES:
            yield chunk
            chunk, files = [], 0
    if chunk:
        yield chunk


def _models(
    rows: Sequence[Mapping[str, Any]], registry: Registry, own: Collection[str], seen: Verified
) -> Iterator[Finding]:
    """The aliases of the registry, and the files of each version that is or was champion, as far as they are kept."""
    newest = champions_of(rows)
    for name in sorted({*own, *newest}):
        # What a version is was said when it first became champion; a later word makes no other of it.
        digests: dict[int, tuple[str, int]] = {}
        wanted: int | None = None
        for row in rows:
            said = parsed(row["event_detail"])
            if row["subject"] == f"{MODEL}{name}" and "sha256" in said:
                wanted = said["version"]
                if wanted is not None:
                    digests.setdefault(wanted, (said["sha256"], row["seq"]))
        present = registry.champion(name)
        if number_of(present) != wanted:
            should = "the event says none" if wanted is None else f"the event says version {wanted}"
            what = f"{alias_is(present)}, {should if name in newest else 'and no event tells of it'}"
            yield Finding(f"{MODEL}{name}", what, newest.get(name))
        kept = {int(one.version): one for one in registry.versions(name)}
        for version in sorted({*digests} & {*kept}):
            seen.models += 1
            digest, event = digests[version]
            try:
                if registry.digest(kept[version]) == digest:
                    continue
                what = "its files differ: their SHA-256 is another"
            except LeptonError as error:
                what = error.what
            yield Finding(f"{MODEL}{name} version {version}", what, event)


def number_of(version: Version | None) -> int | None:
    """Return a version's number, None of none."""
    return None if version is None else int(version.version)


def alias_is(version: Version | None) -> str:
    """Say where the champion's alias stands."""
    return "nothing is champion" if version is None else f"version {version.version} is champion"


def _tables_of(root: Location) -> list[str]:
    """The tables that stand in a folder, known or not; in an object store those of the dictionary."""
    if not root.is_local:
        return [name for name in TABLES if (root / name).is_table()]
    return ["/".join(one.parts[-3:-1]) for one in Path(root.uri).glob(f"*/*/{LOG}")]


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
