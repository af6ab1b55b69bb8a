"""What a publication appends, what it restates and what was said at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.config.sections import RestateSettings
from lepton_etl.publication.changes import changes, publication_id, to_append, to_close
from lepton_etl.publication.published_rows import (
    INPUTS,
    WITHDRAWN,
    RowKey,
    Said,
    canonical,
    last_said,
    rows_said,
    standing,
)
from lepton_etl.schema.energy import CLUSTER_DAY
from lepton_etl.schema.publication import PUBLICATION
from lepton_etl.schema.types import arrow_schema

DAY = date(2025, 6, 3)
TABLE = CLUSTER_DAY.name
FIRST_NIGHT = datetime(2025, 6, 4, 2, tzinfo=UTC)
LIMITS = RestateSettings(min_change_ratio=0.001, material_ratio=0.01)
BECAUSE = {DAY: ("late_readings",)}


def said(key: str = "c01", status: str = "provisional", day: date = DAY, **figures: Any) -> Said:
    return Said(TABLE, canonical({"cluster_id": key, "date": day}), day, canonical(figures), status)


def last(*rows: Said) -> dict[RowKey, Said]:
    return {one.row: one for one in rows}


def restated(new: Said, old: Said, closed: Sequence[str] = ()) -> list[tuple[str, Any, Any, bool]]:
    appended = to_append([new], last(old), closed)
    return [(c.column, c.old, c.new, c.material) for c in changes(appended, last(old), BECAUSE, LIMITS)]


def test_equal_rows_append_nothing_whatever_their_order() -> None:
    rows = [said("c01", it_energy_kwh=1.5), said("c02", it_energy_kwh=2.5)]
    assert to_append(rows, last(*reversed(rows)), ()) == []


def test_a_new_column_without_a_figure_is_no_change() -> None:
    before = rows_said(CLUSTER_DAY, one_row())
    after = [Said(TABLE, b.key, b.date, canonical(b.values() | {"new_kwh": None})) for b in before]
    assert to_append(after, last(*before), ()) == []


def one_row() -> pa.Table:
    row = {
        "date": DAY, "site_id": "s", "cluster_id": "c01", "it_energy_kwh": 10.0, "pue_ratio": None,
        "status": "provisional",
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=arrow_schema(CLUSTER_DAY))


def test_status_is_the_publications_own_and_unknown_figures_are_left_out() -> None:
    (one,) = rows_said(CLUSTER_DAY, one_row())
    assert one.values() == {
        "date": "2025-06-03",
        "site_id": "s",
        "cluster_id": "c01",
        "it_energy_kwh": 10.0,
    }
    assert one.key == '{"cluster_id":"c01","date":"2025-06-03","site_id":"s"}'


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (100.05, []),
        (100.2, [("it_energy_kwh", 100.0, 100.2, False)]),
        (102.0, [("it_energy_kwh", 100.0, 102.0, True)]),
        (None, [("it_energy_kwh", 100.0, None, True)]),
    ],
)
def test_a_provisional_figure_is_restated_from_the_least_change_on(new: float | None, expected: Any) -> None:
    assert restated(said(it_energy_kwh=new), said(it_energy_kwh=100.0)) == expected


@pytest.mark.parametrize(
    ("imputed", "expected"), [(0.05, []), (5.0, [("it_energy_imputed_kwh", 5.0, None, True)])]
)
def test_an_imputed_part_that_goes_is_judged_by_the_whole(imputed: float, expected: Any) -> None:
    old = said(it_energy_kwh=100.0, it_energy_imputed_kwh=imputed)
    assert restated(said(it_energy_kwh=100.0), old) == expected


def test_a_small_provisional_change_is_published_without_a_restatement() -> None:
    (row,) = to_append([said(it_energy_kwh=100.05)], last(said(it_energy_kwh=100.0)), ())
    assert (row.status, row.values()["it_energy_kwh"]) == ("provisional", 100.05)


def test_a_closed_month_restates_whatever_the_size() -> None:
    old = said(status="closed", it_energy_kwh=100.0)
    assert restated(said(it_energy_kwh=100.05), old, ["2025-06"]) == [("it_energy_kwh", 100.0, 100.05, False)]
    (row,) = to_append([said(it_energy_kwh=100.05)], last(old), ["2025-06"])
    assert row.status == "restated"
    assert to_append([said(it_energy_kwh=100.0)], last(old), ["2025-06"]) == []


def test_a_withdrawn_row_is_said_once_and_its_return_is_a_change() -> None:
    old = said(it_energy_kwh=100.0)
    (gone,) = to_append([], last(old), ())
    assert gone.figures == WITHDRAWN
    (change,) = changes([gone], last(old), BECAUSE, LIMITS)
    assert (change.column, change.old, change.new) == ("*", {"it_energy_kwh": 100.0}, None)
    assert to_append([], last(gone), ()) == []
    (back,) = to_append([old], last(gone), ())
    assert back.figures == old.figures
    assert standing([gone], TABLE) == []


def test_a_row_that_comes_after_the_close_is_a_restatement_and_before_it_is_none() -> None:
    late = to_append([said(it_energy_kwh=1.0)], {}, ["2025-06"])
    assert [c.column for c in changes(late, {}, BECAUSE, LIMITS)] == ["*"]
    early = to_append([said(it_energy_kwh=1.0)], {}, [])
    assert list(changes(early, {}, BECAUSE, LIMITS)) == []


def test_a_figure_of_a_period_that_has_grown_is_not_restated() -> None:
    old, new = said(kpi_value=1.2, last_date="2025-06-03"), said(kpi_value=1.3, last_date="2025-06-04")
    assert restated(new, old) == []


def test_what_a_day_rests_on_is_never_a_restatement() -> None:
    before, now = (Said(INPUTS, "{}", DAY, canonical({"code": c})) for c in "ab")
    rows = to_append([now], last(before), ())
    assert rows
    assert list(changes(rows, last(before), BECAUSE, LIMITS)) == []


def test_closing_says_provisional_rows_of_the_month_again_and_no_others() -> None:
    rows = [
        said("c01", it_energy_kwh=1.0),
        said("c02", "closed", it_energy_kwh=1.0),
        said("c03", day=date(2025, 7, 1), it_energy_kwh=1.0),
        Said(TABLE, '{"period":"year"}', DAY, "{}"),
    ]
    assert [(one.key, one.status) for one in to_close(last(*rows), "2025-06")] == [(rows[0].key, "closed")]


def test_a_publication_that_was_cut_short_gets_the_same_name_again() -> None:
    old = last(replace(said(it_energy_kwh=1.0), publication_id="291fc6540ec76703"))
    rows = [said("c02", it_energy_kwh=2.0), said(it_energy_kwh=3.0)]
    assert publication_id(rows, old) == publication_id(rows[::-1], old)
    assert publication_id(rows, old) != publication_id(rows, {})
    assert publication_id(rows, old) != publication_id(rows[:1], old)


KEYS = ("c01", "c02", "c03")
NIGHTS = st.lists(
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 3).map(float), max_size=3), min_size=1, max_size=6
)


@given(NIGHTS, st.integers(0, 6))
def test_folding_the_publications_of_a_time_gives_the_rows_of_that_time(
    nights: list[dict[str, float]], asked: int
) -> None:
    """Whatever the nights said, the last word by a time is exactly what gold held then."""
    log: list[dict[str, Any]] = []
    for number, night in enumerate(nights):
        before = last_said(table_of(log))
        rows = to_append([said(key, it_energy_kwh=kwh) for key, kwh in night.items()], before, ())
        log += [row_of(one, number, publication_id(rows, before)) for one in rows]
        assert (not rows) == (night == standing_kwh(before))
    until = FIRST_NIGHT + timedelta(days=asked)
    held = nights[min(asked, len(nights) - 1)]
    assert standing_kwh(last_said(table_of(log), until)) == held
    assert standing_kwh(last_said(table_of(log), FIRST_NIGHT - timedelta(seconds=1))) == {}


def row_of(one: Said, night: int, name: str) -> dict[str, Any]:
    return {
        "publication_id": name, "published_time": FIRST_NIGHT + timedelta(days=night), "table_name": one.table,
        "row_key": one.key, "date": one.date, "status": one.status, "figures": one.figures,
        "row_hash": one.row_hash,
    }  # fmt: skip


def table_of(log: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(log, schema=arrow_schema(PUBLICATION))


def standing_kwh(rows: dict[RowKey, Said]) -> dict[str, float]:
    keys = {said(key).key: key for key in KEYS}
    return {keys[one.key]: one.values()["it_energy_kwh"] for one in standing(rows.values(), TABLE)}
