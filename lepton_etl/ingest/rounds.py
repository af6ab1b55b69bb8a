"""Rounds of a loop that wrote no stamps: no two of them have one time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from datetime import timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from lepton_etl.ingest.decoded import Origin
from lepton_etl.ingest.units import UTC_TIME

STRAY = -1
# Of the sensors of a loop at least this share is there again; fewer are namesakes in one table.
LOOP_SHARE = 0.5


class Rounds:
    """The rounds of one file so far, block after block."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def of(self, sensors: pl.DataFrame, position: pl.Series, raw_value: pl.Series) -> npt.NDArray[np.int64]:
        """Return the round of each row, from 0; rows of one position are of one round.

        In a text that is no loop a sensor that says the same once more is of round 0, a repeat; one that says something
        else is STRAY: nobody knows when.
        """
        rows = pl.DataFrame({"sensor": sensors.hash_rows(), "position": position, "value": raw_value})
        distinct = rows["sensor"].unique()
        before = pl.Series([self._seen.get(one, 0) for one in distinct.to_list()], dtype=pl.Int64)
        if distinct.len() == rows.height and not before.sum():
            self._seen.update(dict.fromkeys(distinct.to_list(), 1))
            return np.zeros(rows.height, np.int64)
        rows = rows.join(
            pl.DataFrame({"sensor": distinct, "before": before}),
            on="sensor",
            how="left",
            maintain_order="left",
        )
        within = pl.col("position").rank("dense").over("sensor").cast(pl.Int64)
        rows = rows.with_columns(count=pl.col("before") + within)
        self._seen.update(rows.group_by("sensor").agg(pl.col("count").max()).iter_rows())
        again = sum(count > 1 for count in self._seen.values())
        number: npt.NDArray[np.int64] = rows["count"].to_numpy() - 1
        if again >= LOOP_SHARE * len(self._seen):
            return number
        repeats = pl.col("before").eq(0) & (pl.col("value") == pl.col("value").first().over("sensor"))
        return np.where(number > 0, np.where(rows.select(repeats).to_series().to_numpy(), 0, STRAY), 0)


class RowRounds:
    """The rounds of one file for readers that go row by row; a row says whose it is."""

    def __init__(self, origin: Origin) -> None:
        self._path_time = origin.path_time
        self._period_us = round((origin.sampling_period_s or 0.0) * 1e6)
        self._rows: Counter[Hashable] = Counter()

    def stamp(self, whose: Hashable) -> str | None:
        """Return the stamp of the next row, empty where the path's time is its own; None where nobody knows it."""
        number = self._rows[whose]
        self._rows[whose] += 1
        if number == 0:
            return ""
        if self._path_time is None or not self._period_us:
            return None
        return (self._path_time + timedelta(microseconds=number * self._period_us)).isoformat()


def times_of(rounds: npt.NDArray[np.int64], origin: Origin) -> pl.Series:
    """Return when rounds were taken: the path's time, and one sampling period more each; null where nobody knows."""
    if origin.path_time is None:
        return pl.Series([None], dtype=UTC_TIME).new_from_index(0, len(rounds))
    period_us = round((origin.sampling_period_s or 0.0) * 1e6)
    known = (rounds == 0) | ((rounds > 0) & (period_us > 0))
    after = pl.DataFrame({"us": rounds * period_us, "known": known})
    return after.select(
        pl.when("known").then(pl.lit(origin.path_time, dtype=UTC_TIME) + pl.duration(microseconds="us"))
    ).to_series()
