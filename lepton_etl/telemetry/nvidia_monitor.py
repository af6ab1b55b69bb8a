"""Cells and stamps of nvidia-smi's scrolling monitors, dmon and pmon."""

from datetime import date, timedelta
from zoneinfo import ZoneInfo

from lepton_etl.telemetry.decoded import Origin


def monitor_cells(text: str) -> list[str]:
    """The cells of a row: between blanks, or between commas (`--format csv`)."""
    return [cell.strip() for cell in text.split(",")] if "," in text else text.split()


class MonitorClock:
    """Stamps of dmon: with `-o DT` a day and a time, with `-o T` a time alone, of the path's day and those after it."""

    def __init__(self, origin: Origin) -> None:
        zone = ZoneInfo(origin.timezone)
        self._day: date | None = (
            None if origin.path_time is None else origin.path_time.astimezone(zone).date()
        )
        self._last = ""

    def stamp(self, day: str | None, time: str | None) -> str | None:
        """ISO 8601 without a zone; a text that is no stamp where the day is not known; None where nothing is logged."""
        if time is None:
            return None
        if day is not None:
            return f"{day[:4]}-{day[4:6]}-{day[6:]} {time}"
        # The boards of one sample are written one after another; a clock that falls by half a day passed midnight.
        if self._day is not None and time[:2] < "12" <= self._last[:2]:
            self._day += timedelta(days=1)
        self._last = time
        return time if self._day is None else f"{self._day} {time}"
