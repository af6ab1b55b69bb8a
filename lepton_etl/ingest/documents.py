"""Objects of named arrays of a JSON document of any size, some at a time, each built only when it is complete.

- JSON texts of any size, document by document: one document, several laid one after another, or JSON lines.
"""

import codecs
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import ijson

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Origin
from lepton_etl.ingest.samples import Fault, Sample, decode_samples
from lepton_etl.ingest.sensors import RuleTable
from lepton_etl.ingest.text import MAX_DOCUMENT_BYTES, Parts, Spec, in_utf8
from lepton_etl.ingest.units import EpochUnit

# Parsed text takes some ten times its size, so a part is kept smaller than a log's.
PART_CHARS: Final = 4 << 20
_BETWEEN: Final = " \t\r\n\x1e"  # RFC 7464 separates documents by the record separator.
# Numbers keep the digits that were logged; what becomes of NaN is judged with the values.
_DECODER: Final = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)


class Structure:
    """A document, or a part of one, that names no reading: counted, no record."""


STRUCTURE: Final = Structure()
Found = Sample | Fault | Structure
# What stands in one document that begins at a line of the text.
Walk = Callable[[Any, int, Spec], Iterator[Found]]


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON value and the 1-based line at which it begins."""

    line: int
    value: Any


def by_documents(
    walk: Callable[[Any, int, Spec], Iterator[Found]],
    rules_of: Callable[[Spec], RuleTable],
    *,
    epoch: EpochUnit | None = None,
) -> Callable[[Iterable[bytes], Origin, Spec], Parts]:
    """How a text of JSON documents is read: in parts of some megabytes, each by `walk` and the format's rules."""

    def read(chunks: Iterable[bytes], origin: Origin, spec: Spec) -> Parts:
        for part in documents(chunks):
            found: list[Found] = []
            for item in part:
                found.extend([item] if isinstance(item, Fault) else walk(item.value, item.line, spec))
            yield decode_samples(
                (item for item in found if isinstance(item, Sample)),
                origin,
                rules_of(spec),
                faults=[item for item in found if isinstance(item, Fault)],
                structure_lines=sum(isinstance(item, Structure) for item in found),
                epoch=epoch,
            )

    return read


def documents(
    chunks: Iterable[bytes], limit: int = MAX_DOCUMENT_BYTES, part_chars: int = PART_CHARS
) -> Iterator[list[Document | Fault]]:
    """The documents of a text part by part; at least one part, of an empty text an empty one.

    What cannot be parsed is one fault (bad_json, too_deep, too_large) up to the next line that begins with a bracket.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    scanner = _Scanner(limit)
    for chunk in in_utf8(chunks):
        scanner.text += decoder.decode(chunk)
        if len(scanner.text) >= part_chars:
            yield scanner.scan(last=False)
    scanner.text += decoder.decode(b"", final=True)
    yield scanner.scan(last=True)


def text_of(value: Any) -> str:
    """A JSON value as logged, at most as much as a reject keeps; null is no text."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return json.dumps(value)[:MAX_RAW_TEXT_CHARS]
    except RecursionError:  # It was parsed, so only just.
        return "a deep nest"


class _Scanner:
    """The text not yet understood, and where it stands in the file."""

    def __init__(self, limit: int) -> None:
        self.text = ""
        self._limit = limit
        self._line = 1
        self._damaged = False
        """Whether the text so far ends in a document that was refused; all up to the next one belongs to it."""

    def scan(self, last: bool) -> list[Document | Fault]:
        """All that the text holds; an unfinished document stays in `text` unless this is the last part."""
        found: list[Document | Fault] = []
        at, line_at = 0, 0
        while True:
            at = _next_bracket(self.text, at) if self._damaged else _past_blanks(self.text, at)
            if at >= len(self.text):
                break
            self._damaged = False
            self._line += self.text.count("\n", line_at, at)
            line_at = at
            try:
                value, end = _DECODER.raw_decode(self.text, at)
                found.append(Document(self._line, value))
            except RecursionError:
                found.append(self._fault("too_deep", at))
            except ValueError:
                # A line that begins an object ends the object before it, which then was broken, not unfinished.
                unfinished = not last and (self.text[at] == "[" or self.text.find("\n{", at) < 0)
                if unfinished and len(self.text) - at <= self._limit:
                    break
                found.append(self._fault("too_large" if unfinished else "bad_json", at))
            else:
                at = end
                continue
            at += 1
        if self._damaged and self.text.endswith("\n"):
            at = len(self.text) - 1  # The next part may begin with the bracket that ends the damage.
        self._line += self.text.count("\n", line_at, at)
        self.text = self.text[at:]
        return found

    def _fault(self, reason: str, at: int) -> Fault:
        self._damaged = True
        end = min(_next_bracket(self.text, at + 1), at + MAX_RAW_TEXT_CHARS)
        raw_text = self.text[at:end].replace("\r\n", "\n").rstrip("\n")
        return Fault(self._line, reason, raw_text)


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BETWEEN:
        at += 1
    return at


def _next_bracket(text: str, at: int) -> int:
    """Where the next line after `at` begins that opens an object or array; the end of the text if none does."""
    ends = (text.find("\n" + bracket, max(at - 1, 0)) for bracket in "{[")
    return min((end + 1 for end in ends if end >= 0), default=len(text))


class Bounded:
    """A file object over chunks for ijson; what is open since `passed` may not be larger than a document may be."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._open_bytes = 0

    def read(self, size: int) -> bytes:
        """The next chunk, whatever its size; none of no bytes, which would be the end."""
        if size == 0:
            return b""
        chunk = next((chunk for chunk in self._chunks if chunk), b"")
        self._open_bytes += len(chunk)
        if self._open_bytes > MAX_DOCUMENT_BYTES:
            raise ijson.JSONError(f"one value of more than {MAX_DOCUMENT_BYTES} bytes")
        return chunk

    def drain(self) -> None:
        """Read what is left: a file's identity is only known at its end."""
        for _ in self._chunks:
            pass

    def passed(self) -> None:
        """What came so far is done with."""
        self._open_bytes = 0


@dataclass(frozen=True, slots=True)
class Item:
    """One object: the key of its array, its number among all in the file, and what it says."""

    key: str
    position: int
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """Some objects after another, and what could not be read."""

    objects: list[Item] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


OPENING: Final = ("start_map", "start_array")
CLOSING: Final = ("end_map", "end_array")
# No tool nests so far; the limit keeps a hostile document from the interpreter's stack.
MAX_DEPTH: Final = 64
NOTHING_FOUND: Final = "no array named {}"


class Objects:
    """The objects of the arrays `keys` at the top of one document, or of several laid one after another."""

    def __init__(self, chunks: Iterable[bytes], keys: tuple[str, ...], batch: int) -> None:
        self._source = Bounded(chunks)
        self._keys = keys
        self._batch = batch
        self._seen = 0
        self._arrays = 0

    def batches(self) -> Iterator[Batch]:
        """At least one batch; a document that breaks off, or has none of the arrays, ends in a fault (bad_json)."""
        found: list[Item] = []
        faults: list[Fault] = []
        try:
            for item in self._items():
                found.append(item)
                if len(found) >= self._batch:
                    yield Batch(found)
                    found = []
            if not self._arrays:
                raise ValueError(NOTHING_FOUND.format(" or ".join(self._keys)))
        except (ijson.JSONError, ValueError, OverflowError) as error:
            what = " ".join(str(error).split())  # The parser draws an arrow over several lines.
            self._source.drain()
            faults.append(Fault(self._seen + 1, "bad_json", f"after {self._seen} objects: {what}"))
        yield Batch(found, faults)

    def _items(self) -> Iterator[Item]:
        # Not use_float: it refuses whole numbers of 64 bits without sign, which Slurm writes for "not known".
        events = ijson.basic_parse(self._source, multiple_values=True)
        depth, key = 0, None
        for event, value in events:
            self._source.passed()
            if event == "map_key":
                key = value if depth == 1 and value in self._keys else None
                continue
            if key is not None and event == "start_array":
                self._arrays += 1
                for item in self._array(events):
                    self._seen += 1
                    yield Item(key, self._seen, item)
            else:
                depth += (event in OPENING) - (event in CLOSING)
            key = None

    def _array(self, events: Iterator[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
        """The objects of an array that has been opened; anything else in it stands under an empty key."""
        depth = 0
        for event, value in events:
            self._source.passed()
            if depth == 0 and event == "start_map":
                yield self._object(events)
                continue
            if depth == 0 and event != "end_array":
                yield {"": event if value is None else value}
            depth += (event in OPENING) - (event in CLOSING)
            if depth < 0:
                return

    def _object(self, events: Iterator[tuple[str, Any]]) -> dict[str, Any]:
        """The object that has been opened."""
        builder = ijson.ObjectBuilder()
        builder.event("start_map", None)
        depth = 1
        for event, value in events:
            builder.event(event, value)
            depth += (event in OPENING) - (event in CLOSING)
            if depth > MAX_DEPTH:
                raise ValueError(f"an object nested more than {MAX_DEPTH} deep")
            if depth == 0:
                break
        found: dict[str, Any] = builder.value
        return found
