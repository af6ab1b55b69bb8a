"""Whether a page shows what is published, and the mark of one that does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime

import pytest

from lepton_etl.days import Days
from lepton_etl.report.data import ReportData
from lepton_etl.report.page import render
from lepton_etl.report.superseded import HEAD_BYTES, changed_days, days_of, folder_of, marked

THIRD, FOURTH = date(2025, 6, 3), date(2025, 6, 4)
MADE_OF = {THIRD: {"gold/cluster_day": "a1", "gold/state": "b2"}, FOURTH: {"gold/cluster_day": "c3"}}
TIME = datetime(2025, 6, 9, 2, 11, 5, tzinfo=UTC)


def test_a_page_is_of_the_days_that_its_folder_names() -> None:
    for days in (Days.of(THIRD), Days(THIRD, FOURTH)):
        assert days_of(folder_of(days)) == days
    assert [days_of(name) for name in ("latest", "2025-06-03_", "2025-06-04_2025-06-04", "2025-6-3")] == [
        None
    ] * 4


def test_the_days_that_changed_are_told_from_the_head_of_the_page(
    made_up_report: Callable[..., ReportData],
) -> None:
    head = render(made_up_report(2, made_of=MADE_OF)).encode()[:HEAD_BYTES].decode(errors="ignore")
    assert changed_days(head, MADE_OF) == []
    assert changed_days(head, {FOURTH: {"gold/cluster_day": "new"}}) == [FOURTH]
    # A table came or went.
    assert changed_days(head, {THIRD: {"gold/cluster_day": "a1"}, FOURTH: MADE_OF[FOURTH]}) == [THIRD]
    assert changed_days("<html>of an older release", MADE_OF) == [THIRD, FOURTH]


def test_a_mark_names_run_and_date_and_leads_to_what_holds(made_up_report: Callable[..., ReportData]) -> None:
    page = render(made_up_report(2, made_of=MADE_OF))
    once = marked(page, [FOURTH], "run<1>", TIME, [FOURTH])
    assert once.index("Superseded.") < once.index("<header>")
    assert 'data-superseded-by="run&lt;1&gt;"' in once and "2025-06-09 02:11:05 UTC" in once
    assert 'href="../2025-06-04/index.html"' in once
    again = marked(once, [THIRD, FOURTH], "run-2", TIME)
    assert (
        again.count("Superseded.") == 1 and "run&lt;1&gt;" not in again and "2025-06-03, 2025-06-04" in again
    )
    assert "What holds now" not in again
    assert (
        again.replace(again[again.index('<div class="warn" id="superseded"') : again.index("<header>")], "")
        == page
    )


@pytest.mark.parametrize("days", [1, 3])
def test_a_fresh_page_bears_no_mark(made_up_report: Callable[..., ReportData], days: int) -> None:
    assert 'id="superseded"' not in render(made_up_report(days))
