"""A run's UTC days: an inclusive range of dates and the instants it spans."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from lepton_etl.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Days:
    """UTC days from `start` to `end`, both included."""

    start: date
    end: date

    def __post_init__(self) -> None:
        if self.end < self.start:
            raise ConfigurationError(
                f"the range ends before it starts: {self.start} .. {self.end}",
                where="--until",
                remedy="give --until on or after --date",
            )

    @classmethod
    def of(cls, start: date, end: date | None = None) -> Days:
        return cls(start, end or start)

    @property
    def count(self) -> int:
        return (self.end - self.start).days + 1

    @property
    def from_time(self) -> datetime:
        """First instant of the range, UTC."""
        return datetime.combine(self.start, time(), UTC)

    @property
    def until_time(self) -> datetime:
        """First instant after the range, UTC."""
        return datetime.combine(self.end + timedelta(days=1), time(), UTC)

    def __iter__(self) -> Iterator[date]:
        for offset in range(self.count):
            yield self.start + timedelta(days=offset)

    def __contains__(self, day: date) -> bool:
        return self.start <= day <= self.end

    def __str__(self) -> str:
        return str(self.start) if self.start == self.end else f"{self.start}..{self.end}"


def adjoining(days: list[date]) -> list[Days]:
    """Sorted days as ranges without a hole."""
    ranges: list[Days] = []
    for day in days:
        if ranges and day - ranges[-1].end == timedelta(days=1):
            ranges[-1] = Days(ranges[-1].start, day)
        else:
            ranges.append(Days.of(day))
    return ranges
