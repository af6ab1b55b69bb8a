"""From a row of bronze/reading to the line of the delivered file that it was read from, as far as the file lies there.

A position is what the decoder wrote: the line of a text, the row of a Parquet file, the number of the object or sample
in a JSON document.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lepton_etl.config.settings import Settings
from lepton_etl.errors import LakeError
from lepton_etl.ingest.personal import shape, without_users
from lepton_etl.ingest.text import ContentIdentity, UnreadableError, file_id, numbered_lines, text_chunks
from lepton_etl.lake.landing import Delivered, Landing, identity
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE
from lepton_etl.schema.privacy import PSEUDONYM
from lepton_etl.trust.pseudonyms import renamed

# No tool writes a longer line that a person would read.
MAX_CHARS: Final = 400
# Why there is no text of a position, by what the file consists of.
_ABSENT: Final = {
    "line": "the file has no such line",
    "row": "the file has no such row",
    "object": "a document: the value was read from its object of this number",
}
_DOCUMENT: Final = (b"{", b"[", b"<")


def mask_lines(texts: Iterable[str], hidden: Callable[[str], str]) -> list[str]:
    """Return raw lines as `hidden` (see `renamed`) gives them, and without what labels call a user."""
    return list(without_users(pl.Series([hidden(text) for text in texts], dtype=pl.String)))


@dataclass(frozen=True, slots=True)
class Line:
    """Where a reading was logged: file, position, and the text there; `missing` says why there is none.

    `people` are the pseudonyms of those whom a line of job accounting may name.
    """

    path: str | None
    file_id: str
    position: int | None
    kind: str
    sensor: str
    raw_value: str | None
    raw_unit: str | None
    value: float | None
    reading_time: datetime | None
    text: str | None = None
    missing: str | None = None
    people: tuple[str, ...] = ()


@dataclass
class SourceLines:
    """Finds lines of delivered files; `names` (to their pseudonyms) are masked in them."""

    lake: Lake
    settings: Settings
    landing: Landing
    names: Mapping[str, str] = field(default_factory=dict)
    _files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._hidden = renamed(self.names)

    def read(self, lines: Sequence[Line]) -> list[Line]:
        """Return the lines with their texts, in their order; a file is read once for all of them.

        A line of job accounting names its people anywhere; where the map knows the name of one no more, the shape of
        the line is shown.
        """
        found, by_file = list(lines), dict[str, list[int]]()
        for number, line in enumerate(lines):
            by_file.setdefault(line.file_id, []).append(number)
        for file, numbers in by_file.items():
            for number, line in zip(
                numbers, self._with_text(file, [lines[one] for one in numbers]), strict=True
            ):
                found[number] = line
        known = set(self.names.values())
        return [
            replace(line, text=shape(line.text))
            if line.text is not None and not known.issuperset(line.people)
            else line
            for line in found
        ]

    def lies_there(self, row: Mapping[str, Any]) -> bool:
        """Return whether a file that a row of bronze/file says to be loaded still lies in the landing folder.

        One whose place another has taken, which a later batch saw, does not. Raises LakeError where what lies there is
        another that no batch saw, or cannot be read.
        """
        try:
            self._texts(row, row["file_id"], set())
        except _GoneError:
            return False
        except _NotThereError as error:
            later = (pc.field("path") == row["path"]) & (pc.field("batch") > row["batch"])
            if self.lake.read(FILE, columns=["path"], where=later).height:
                return False
            raise LakeError(str(error), where=row["path"], remedy="restore it from a copy") from error
        return True

    def _with_text(self, file: str, lines: list[Line]) -> list[Line]:
        delivered = self._delivered(file)
        if not delivered:
            return [replace(line, missing="bronze/file has no record of the file") for line in lines]
        missing = ""
        for row in delivered:
            try:
                texts = self._texts(row, file, {line.position for line in lines if line.position})
            except _NotThereError as error:
                missing = str(error)
                continue
            kind, of_position = texts
            masked = mask_lines(of_position.values(), self._hidden)
            shown = {at: text[:MAX_CHARS] for at, text in zip(of_position, masked, strict=True)}
            return [
                replace(
                    line,
                    path=row["path"],
                    kind=kind,
                    text=shown.get(line.position or 0),
                    missing=None if line.position in shown else _ABSENT[kind],
                )
                for line in lines
            ]
        return [replace(line, path=delivered[0]["path"], missing=missing) for line in lines]

    def _delivered(self, file: str) -> list[dict[str, Any]]:
        if file not in self._files:
            rows = self.lake.read(FILE, where=pc.field("file_id") == file)
            loaded = rows.filter(pl.col("state").is_in(("loaded", "duplicate"))).sort(
                "state", "path", descending=[True, False]
            )
            self._files[file] = loaded.to_dicts()
        return self._files[file]

    def _texts(self, row: Mapping[str, Any], file: str, positions: set[int]) -> tuple[str, dict[int, str]]:
        """What stands at these positions. Raises _NotThereError where the file is gone or another one."""
        source = {one.name: one for one in self.settings.all_sources}.get(row["source_name"])
        if source is None:
            raise _NotThereError(f"the settings name no source {row['source_name']} any more")
        path = row["path"]
        node_id, path_time = identity(source, path)
        delivered = Delivered(source.name, path, row["size_bytes"], row["modified_time"], node_id, path_time)
        watched = ContentIdentity(source.name, node_id)
        try:
            with self.landing.open(delivered, source) as handle:
                chunks = watched.watch(text_chunks(handle, path))
                head = next(chunks, b"")
                kind, found = _at(head, chunks, positions)
                for _ in chunks:
                    pass
        except FileNotFoundError as error:
            raise _GoneError("the file lies in the landing folder no more") from error
        except (OSError, UnreadableError) as error:
            raise _NotThereError(f"the file cannot be read: {error}") from error
        if file_id(watched.content_id, path_time) != file:
            raise _NotThereError("the file that lies there now holds other bytes (its SHA-256 differs)")
        return kind, found


class _NotThereError(Exception):
    """A delivered file that cannot be shown; its text says why."""


class _GoneError(_NotThereError):
    """It was taken away."""


def _at(head: bytes, rest: Iterator[bytes], positions: set[int]) -> tuple[str, dict[int, str]]:
    chunks = itertools.chain([head], rest)
    if head.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(b"".join(chunks)))
        known = [number for number in sorted(positions) if number <= table.num_rows]
        rows = table.take(pa.array([number - 1 for number in known], pa.int64())).to_pylist()
        return "row", {number: str(row) for number, row in zip(known, rows, strict=True)}
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_DOCUMENT):
        # What an object's number stands for is the decoder's to say; the reading's own raw value is shown beside it.
        return "object", {}
    return "line", dict(_numbered(chunks, positions))


def _numbered(chunks: Iterable[bytes], positions: set[int]) -> Iterator[tuple[int, str]]:
    """Lines of these numbers, counted as the decoders count them."""
    for lines in numbered_lines(chunks):
        within = [number for number in sorted(positions) if lines.first_position <= number < lines.following]
        texts = lines.texts(pl.Series(within, dtype=pl.Int64)).to_list() if within else []
        yield from zip(within, texts, strict=True)


def line_of(reading: Mapping[str, Any]) -> Line:
    """Return where a row of bronze/reading was logged, its text not yet looked up."""
    return Line(
        None, reading["file_id"], reading["source_position"], "line", reading["sensor"], reading["raw_value"],
        reading["raw_unit"], reading["value"], reading["reading_time"],
    )  # fmt: skip


def line_of_job(job: Mapping[str, Any]) -> Line:
    """Return the same of a row of bronze/job."""
    return Line(
        None, job["file_id"], job["source_position"], "line", job["record"] or "job", job["job_state"], None, None,
        job["start_time"], people=tuple(PSEUDONYM.findall(f"{job['user_name']} {job['job_id']}")),
    )  # fmt: skip
