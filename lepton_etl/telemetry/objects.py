"""Objects of named arrays of a JSON document of any size, some at a time, each built only when it is complete."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import ijson  # type: ignore[import-untyped]

from lepton_etl.telemetry.blocks import MAX_DOCUMENT_BYTES
from lepton_etl.telemetry.samples import Fault


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
