"""A changed dated row marks exactly the days of its validity; reasons follow the marks."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.publication.changes import changed_inputs, reasons_of
from lepton_etl.publication.input_digests import DatedRow, dated_rows, mark, marks_by_day

START = date(2025, 6, 1)
DAYS = [START + timedelta(days=offset) for offset in range(30)]


def day(offset: int) -> date:
    return START + timedelta(days=offset)


@given(st.integers(0, 29), st.integers(0, 29), st.integers(0, 29))
def test_a_changed_row_marks_its_span_and_nothing_else(a: int, b: int, other: int) -> None:
    first, last = sorted((a, b))
    stays = DatedRow("rack 7", day(other), None)
    before = marks_by_day([stays, DatedRow("450 W", day(first), day(last))], DAYS)
    after = marks_by_day([DatedRow("460 W", day(first), day(last)), stays], DAYS)
    assert [d for d in DAYS if before[d] != after[d]] == DAYS[first : last + 1]


def test_an_end_at_midnight_does_not_touch_the_day_that_it_begins() -> None:
    rows = pa.table(
        {
            "node_id": ["n1", "n2", "n3"],
            "valid_from": pa.array([datetime(2025, 6, 2, 12, tzinfo=UTC)] * 3),
            "valid_to": pa.array(
                [datetime(2025, 6, 4, tzinfo=UTC), datetime(2025, 6, 4, 1, tzinfo=UTC), None]
            ),
        }
    )
    spans = [(row.first, row.last) for row in dated_rows(rows)]
    assert spans == [(day(1), day(2)), (day(1), day(3)), (day(1), None)]


def test_marks_do_not_depend_on_the_order_of_rows() -> None:
    rows = [DatedRow(text, START, None) for text in "abc"]
    assert marks_by_day(rows, DAYS) == marks_by_day(rows[::-1], DAYS)
    assert mark(None) != mark("") != mark("", "")


def test_reasons_are_the_inputs_that_differ() -> None:
    before = {"late_readings": "1", "intensity": "1", "code": "1"}
    assert changed_inputs(before, before | {"late_readings": "2", "code": "2"}) == ("late_readings", "code")
    assert changed_inputs(before, before) == ("unknown",)
    assert changed_inputs(None, before) == ("unknown",)


def test_an_intensity_cannot_have_moved_energy() -> None:
    both = ("late_readings", "intensity")
    assert reasons_of("gold/cluster_day", "it_energy_kwh", both) == ("late_readings",)
    assert reasons_of("gold/cluster_day", "emissions_location_kgco2e", both) == both
    assert reasons_of("gold/cluster_day", "it_energy_kwh", ("intensity",)) == ("unknown",)
    assert reasons_of("gold/kpi", "kpi_value", ("intensity",)) == ("intensity",)
