"""What a log's lines mean, understood once a distinct text and remembered over the files of a task.

A BMC repeats itself: 46 real node-days of 2.2 million lines hold 7,000 distinct ones, which 1,700 a file share. So
the rules run once a text, and a line costs no more than looking its text up.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

# Some 40 MB. A log of ever new texts (counters in every line) starts again instead of growing.
MAX_TEXTS: Final = 1 << 17

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, eq=False)
class Same(Generic[Value]):
    """A value as a cache key by what it is, not by what it says: settings hold mappings, which have no hash."""

    value: Value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


class Vocabulary:
    """Rows of meaning by text; `understand` gives one row a text, in order, always with the same columns."""

    def __init__(self, understand: Callable[[pl.Series], pl.DataFrame]) -> None:
        self._understand = understand
        self._ids: dict[str, int] = {}
        self.rows = understand(pl.Series("line", [], dtype=pl.String))
        """The meaning of every text so far, by id."""

    def ids(self, texts: list[str]) -> npt.NDArray[np.int64]:
        """The rows of these texts in `rows`; ids of earlier calls hold until the next call only."""
        if len(self._ids) > MAX_TEXTS:
            self._ids.clear()
            self.rows = self.rows.clear()
        known = self._ids
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
            self.rows = pl.concat([self.rows, self._understand(pl.Series("line", new, dtype=pl.String))])
        return np.fromiter((known[text] for text in texts), np.int64, len(texts))
