"""JSON texts: documents one after another, or the objects of one document of any size, one by one."""

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import ijson

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin
from lepton_etl.ingest.rounds import Rounds
from lepton_etl.ingest.samples import Fault, Sample, decode_samples
from lepton_etl.ingest.sensors import RuleTable
from lepton_etl.ingest.text import MAX_DOCUMENT_BYTES, drain, in_utf8
from lepton_etl.ingest.units import EpochUnit

Walked = TypeVar("Walked")
# Parsed text takes some ten times its size, so a part is kept smaller than a log's.
PART_CHARS: Final = 4 << 20
# RFC 7464 separates documents by the record separator.
_NO_BLANK: Final = re.compile(r"(?=[^ \t\r\n\x1e])")
_BEGINS: Final = re.compile(rb"^[ \t]*[{\[]\s*[\"{}\]\[]", re.MULTILINE)
BAD_LINE: Final = "bad_line"
# A line that opens an object or array.
_BRACKET: Final = re.compile(r"\n(?=[{\[])")
# Numbers keep the digits that were logged; what becomes of NaN is judged with the values.
_DECODER: Final = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)


class Structure:
    """A document, or a part of one, that names no reading: counted, no record."""


STRUCTURE: Final = Structure()
Item = Sample | Fault | Structure


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON value and the 1-based line at which it begins."""

    line: int
    value: Any


def decode_documents(
    chunks: Iterable[bytes],
    origin: Origin,
    rules: RuleTable,
    items_of: Callable[[Any, int], Iterable[Item]],
    *,
    epoch: EpochUnit | None = None,
) -> Iterator[Decoded]:
    """Decode a text of JSON documents in parts of some megabytes; `items_of` walks a document and knows its line."""
    rounds = Rounds()
    for part in documents(chunks):
        items: list[Item] = []
        for document in part:
            items.extend(
                [document] if isinstance(document, Fault) else items_of(document.value, document.line)
            )
        yield decode_samples(
            (item for item in items if isinstance(item, Sample)),
            origin,
            rules,
            faults=[item for item in items if isinstance(item, Fault)],
            structure_lines=sum(isinstance(item, Structure) for item in items),
            epoch=epoch,
            rounds=rounds,
        )


def documents(
    chunks: Iterable[bytes], limit: int = MAX_DOCUMENT_BYTES, part_chars: int = PART_CHARS
) -> Iterator[list[Document | Fault]]:
    """Yield the documents of a text part by part; at least one part, of an empty text an empty one.

    What cannot be parsed is one fault (bad_json, too_deep, too_large) up to the next line that begins with a bracket.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    scanner = _Scanner(limit)
    came: list[str] = []
    size = 0
    wanted = part_chars
    for chunk in in_utf8(chunks):
        came.append(decoder.decode(chunk))
        size += len(came[-1])
        if size >= wanted:
            scanner.text += "".join(came)
            came.clear()
            yield scanner.scan(last=False)
            # An unfinished document is parsed anew from its beginning: only once it has doubled.
            size = len(scanner.text)
            wanted = max(part_chars, min(2 * size, limit + 1))
    scanner.text += "".join(came) + decoder.decode(b"", final=True)
    yield scanner.scan(last=True)


def set_noise_aside(head: bytes, chunks: Iterator[bytes]) -> tuple[list[Fault], Iterator[bytes]]:
    """Return the lines of `head` before the one that begins a document, as faults, and the stream from there on.

    `head` is what the stream begins with; where no line of it begins so, the stream stays as it is.
    """
    begins = _BEGINS.search(head)
    if begins is None or not begins.start():
        return [], chunks
    noise = head[: begins.start()]
    lines = enumerate(noise.decode("utf-8", "replace").splitlines(), 1)
    faults = [Fault(line, BAD_LINE, text[:MAX_RAW_TEXT_CHARS]) for line, text in lines if text.strip()]
    return faults, _without_first(len(noise), chunks)


def _without_first(size: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        yield chunk[size:]
        size = max(size - len(chunk), 0)


def text_of(value: Any) -> str:
    """Return a JSON value as logged, at most as much as a reject keeps; null is no text."""
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
        """Return all that the text holds; an unfinished document stays in `text` unless this is the last part."""
        items: list[Document | Fault] = []
        at, line_at = 0, 0
        while True:
            at = (
                _next(_BRACKET, self.text, max(at - 1, 0))
                if self._damaged
                else _next(_NO_BLANK, self.text, at)
            )
            if at >= len(self.text):
                break
            self._damaged = False
            self._line += self.text.count("\n", line_at, at)
            line_at = at
            try:
                value, end = _DECODER.raw_decode(self.text, at)
                items.append(Document(self._line, value))
            except RecursionError:
                items.append(self._fault("too_deep", at))
            except ValueError:
                # A line that begins an object ends the object before it, which then was broken, not unfinished.
                unfinished = not last and (self.text[at] == "[" or self.text.find("\n{", at) < 0)
                if unfinished and len(self.text) - at <= self._limit:
                    break
                items.append(self._fault("too_large" if unfinished else "bad_json", at))
            else:
                at = end
                continue
            at += 1
        if self._damaged and self.text.endswith("\n"):
            at = len(self.text) - 1  # The next part may begin with the bracket that ends the damage.
        self._line += self.text.count("\n", line_at, at)
        self.text = self.text[at:]
        return items

    def _fault(self, reason: str, at: int) -> Fault:
        self._damaged = True
        end = min(_next(_BRACKET, self.text, at), at + MAX_RAW_TEXT_CHARS)
        raw_text = self.text[at:end].replace("\r\n", "\n").rstrip("\n")
        return Fault(self._line, reason, raw_text)


def _next(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Return where the next match from `at` on ends; the end of the text if there is none."""
    match = pattern.search(text, at)
    return match.end() if match else len(text)


Event = tuple[str, Any]
OPENING: Final = ("start_map", "start_array")
CLOSING: Final = ("end_map", "end_array")
# No tool nests so far; the limit keeps a hostile document from the interpreter's stack.
MAX_DEPTH: Final = 64


# Python refuses to make a whole number of more than 4,300 digits, and the parser's process dies of that error.
MAX_DIGITS: Final = 4096
_LONG_NUMBER: Final = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS + 1))
_EVERY: Final = 128
_SAMPLED: Final = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS // _EVERY))


def _holds_long_number(text: bytes) -> bool:
    # Every 128th byte tells where there may be one; looking at each would cost as much as parsing.
    return bool(_SAMPLED.search(text[::_EVERY]) and _LONG_NUMBER.search(text))


class JsonEvents:
    """The parser's events of documents of any size; a single value may not be larger than a document may be.

    What ends the text early is told in `fault`, and the rest is read: a file's identity is only known at its end.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.fault: str | None = None
        self._chunks = iter(chunks)
        self._open_bytes = 0
        self._end_of_last = b""

    def read(self, size: int) -> bytes:
        """The next chunk, whatever its size, as the parser asks for it; none of no bytes, which would be the end."""
        if size == 0:
            return b""
        chunk = next((chunk for chunk in self._chunks if chunk), b"")
        self._open_bytes += len(chunk)
        if self._open_bytes > MAX_DOCUMENT_BYTES:
            raise ijson.JSONError(f"one value of more than {MAX_DOCUMENT_BYTES} bytes")
        seen = self._end_of_last + chunk
        if _holds_long_number(seen):
            raise ijson.JSONError(f"a number of more than {MAX_DIGITS} digits")
        self._end_of_last = seen[-MAX_DIGITS:]
        return chunk

    def __iter__(self) -> Iterator[Event]:
        # Not use_float: it refuses whole numbers of 64 bits without sign, which Slurm writes for "not known".
        for event in ijson.basic_parse(self, multiple_values=True):
            self._open_bytes = 0
            yield event

    def walked(self, walk: Callable[[Iterator[Event]], Iterator[Walked]]) -> Iterator[Walked]:
        """Yield what `walk` makes of the events, up to the first that cannot be read."""
        try:
            yield from walk(iter(self))
        except (ijson.JSONError, ValueError, OverflowError) as error:
            drain(self._chunks)
            self.fault = " ".join(str(error).split())  # The parser draws an arrow over several lines.


def skip(events: Iterator[Event]) -> None:
    """Go to the end of the array or object that has been opened."""
    depth = 1
    for event, _ in events:
        depth += (event in OPENING) - (event in CLOSING)
        if not depth:
            return


@dataclass(frozen=True, slots=True)
class Member:
    """One object: the key of its array, its number among all in the file, and what it says."""

    key: str
    position: int
    value: dict[str, Any]


def members(
    chunks: Iterable[bytes], keys: tuple[str, ...], batch: int
) -> Iterator[tuple[list[Member], list[Fault]]]:
    """Yield the objects of the arrays `keys` at the top of one document, or of several laid one after another.

    At least one batch; a document that breaks off, or has none of the arrays, ends in a fault (bad_json).
    """
    events = JsonEvents(chunks)
    taken: list[Member] = []
    seen, arrays = 0, set[str]()

    def objects(parsed: Iterator[Event]) -> Iterator[Member]:
        for key in _opened(parsed, keys):
            arrays.add(key)
            for value in _array(parsed):
                yield Member(key, seen + 1, value)

    for member in events.walked(objects):
        seen += 1
        taken.append(member)
        if len(taken) >= batch:
            yield taken, []
            taken = []
    fault = events.fault or ("" if arrays else f"no array named {' or '.join(keys)}")
    yield taken, [Fault(seen + 1, "bad_json", f"after {seen} objects: {fault}")] if fault else []


def _opened(events: Iterator[Event], keys: tuple[str, ...]) -> Iterator[str]:
    """Each key of `keys` at the top of a document whose array has just been opened; it is to be read to its end."""
    depth, key = 0, None
    for event, value in events:
        if event == "map_key":
            key = value if depth == 1 and value in keys else None
            continue
        if key is not None and event == "start_array":
            yield key
        else:
            depth += (event in OPENING) - (event in CLOSING)
        key = None


def _array(events: Iterator[Event]) -> Iterator[dict[str, Any]]:
    """Yield the objects of an array that has been opened; anything else in it stands under an empty key."""
    depth = 0
    for event, value in events:
        if depth == 0 and event == "start_map":
            yield _object(events)
            continue
        if depth == 0 and event != "end_array":
            yield {"": event if value is None else value}
        depth += (event in OPENING) - (event in CLOSING)
        if depth < 0:
            return


def _object(events: Iterator[Event]) -> dict[str, Any]:
    """Return the object that has been opened."""
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
    built: dict[str, Any] = builder.value
    return built
