"""Bytes of a log as numbered lines, without a Python loop per line."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from lepton_etl.telemetry.decoded import MAX_RAW_TEXT_CHARS

_NEWLINE = 10


@dataclass(frozen=True)
class Lines:
    """The lines of a text, or of one block of it; line n of the file is item n - 1 - before here."""

    array: pa.LargeStringArray
    damaged: bool
    """Whether any line may hold NUL bytes or bytes that were no UTF-8 (now U+FFFD)."""
    before: int = 0
    """Lines of the file in front of this block."""

    @property
    def following(self) -> int:
        """`before` of the next block."""
        return self.before + len(self.array)

    @property
    def first_position(self) -> int:
        """The 1-based number in the file of the first line here."""
        return self.before + 1

    def series(self) -> pl.Series:
        """All lines, line ends cut off."""
        return _without_ends(pl.Series("line", self.array))

    def distinct(self) -> tuple[npt.NDArray[np.int32], list[str]]:
        """(code of every line, distinct lines by code, line ends cut off): log tables repeat themselves."""
        encoded = self.array.dictionary_encode()
        # Its own to_numpy() would import pandas: a second of every worker.
        codes = np.asarray(np.from_dlpack(encoded.indices), dtype=np.int32)
        return codes, [line.rstrip("\r\n") for line in encoded.dictionary.to_pylist()]

    def texts(self, positions: pl.Series) -> pl.Series:
        """The lines at 1-based `positions` of the file, capped to the length that a reject keeps."""
        taken = self.array.take((positions - self.first_position).to_arrow())
        return _without_ends(pl.Series("raw_text", taken)).str.slice(0, MAX_RAW_TEXT_CHARS)


def read_lines(data: bytes, before: int = 0) -> Lines:
    """Split UTF-8 text (as `blocks.in_utf8` gives it) at line feeds; never raises.

    Bytes that are not UTF-8 become U+FFFD and mark the text as damaged.
    """
    text, damaged = _utf8(data)
    body = np.frombuffer(text, dtype=np.uint8)
    ends = np.flatnonzero(body == _NEWLINE) + 1
    if len(text) and (not len(ends) or ends[-1] != len(text)):
        ends = np.append(ends, len(text))
    offsets = np.concatenate((np.zeros(1, dtype=np.int64), ends.astype(np.int64)))
    array = pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))
    return Lines(array, damaged, before)


def damaged_line(line: pl.Expr) -> pl.Expr:
    """Whether a line holds a NUL or a byte that was no UTF-8."""
    return line.str.contains("[\x00\ufffd]")


def _utf8(data: bytes) -> tuple[bytes, bool]:
    if data.isascii():
        return data, b"\0" in data
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="replace").encode("utf-8"), True
    return data, b"\0" in data or "\ufffd".encode() in data


def _without_ends(lines: pl.Series) -> pl.Series:
    return lines.str.strip_chars_end("\r\n")
