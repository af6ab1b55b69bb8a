"""Recommendations over nights: identity, decisions of people, expiry; and promises that contradict themselves."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.errors import ConfigurationError
from lepton_etl.recommend.advice import Advice, AdviceError, Subject
from lepton_etl.recommend.lifecycle import ALLOWED, REJECTED_DAYS, Decision, check_decision, standing
from lepton_etl.schema.recommend import RECOMMENDATION
from lepton_etl.uncertainty import Estimate

DAY = date(2025, 6, 3)


def at(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


def cap(node: str = "n1", kwh: float = 10.0, day: date = DAY) -> Advice:
    start = at(day, 0) + timedelta(days=1)
    return Advice(
        Subject("s", "c", node), "power_cap", "set_power_limit", f"cap {node}", start, start + timedelta(days=30),
        100.0, Estimate(kwh, kwh / 2, 2 * kwh), "learned curve", parameters={"power_limit_w": 200},
    )  # fmt: skip


def decided(advice: Advice, decision: str, when: datetime) -> Decision:
    return Decision(advice.recommendation_id, decision, when, when)


def nights(
    count: int, found: dict[int, list[Advice]], decisions: list[Decision]
) -> list[list[dict[str, Any]]]:
    before: list[dict[str, Any]] = []
    told = []
    for number in range(count):
        proposals = [one.row() for one in found.get(number, [])]
        before = standing(DAY + timedelta(days=number), proposals, before, decisions)
        told.append(before)
    return told


def states(night: list[dict[str, Any]]) -> list[str]:
    return [row["recommendation_state"] for row in night]


def test_identity_and_first_day_hold_over_nights_and_numbers_are_the_newest() -> None:
    told = nights(3, {0: [cap(kwh=10)], 1: [cap(kwh=12)], 2: [cap(kwh=12), cap("n2")]}, [])
    first, last = told[0][0], next(row for row in told[2] if row["node_id"] == "n1")
    assert first["recommendation_id"] == last["recommendation_id"] and last["first_proposed_date"] == DAY
    assert (first["expected_saving_kwh"], last["expected_saving_kwh"]) == (10, 12)
    assert set(first) == set(RECOMMENDATION.columns)


def test_what_is_not_found_again_expires_once_and_then_begins_anew() -> None:
    told = nights(5, {0: [cap()], 3: [cap()]}, [])
    assert [states(night) for night in told] == [["proposed"], ["expired"], [], ["proposed"], ["expired"]]
    assert told[3][0]["first_proposed_date"] == DAY + timedelta(days=3)


def test_an_accepted_promise_stays_as_it_was_accepted() -> None:
    yes = decided(cap(), "accepted", at(DAY + timedelta(days=1)))
    on = decided(cap(), "applied", at(DAY + timedelta(days=2)))
    told = nights(5, {0: [cap(kwh=10)], 1: [cap(kwh=10)], 2: [cap(kwh=99)], 3: [cap(kwh=99)]}, [yes, on])
    assert [states(night) for night in told] == [
        ["proposed"],
        ["accepted"],
        ["applied"],
        ["applied"],
        ["applied"],
    ]
    assert {night[0]["expected_saving_kwh"] for night in told} == {10}


def test_a_decision_after_the_days_end_does_not_change_the_day() -> None:
    later = decided(cap(), "rejected", at(DAY + timedelta(days=1)))
    assert states(standing(DAY, [cap().row()], [], [later])) == ["proposed"]


def test_what_was_rejected_is_not_proposed_for_a_month() -> None:
    no = decided(cap(), "rejected", at(DAY))
    told = nights(REJECTED_DAYS + 2, {number: [cap()] for number in range(REJECTED_DAYS + 2)}, [no])
    assert states(told[0]) == ["rejected"] and states(told[REJECTED_DAYS - 1]) == ["rejected"]
    assert states(told[-1]) == ["proposed"]


def test_withdrawal_ends_it_and_an_accepted_window_that_passed_expires() -> None:
    on, off = decided(cap(), "applied", at(DAY)), decided(cap(), "withdrawn", at(DAY + timedelta(days=1)))
    assert [states(n) for n in nights(4, {0: [cap()]}, [on, off])] == [["applied"], ["expired"], [], []]
    yes = decided(cap(), "accepted", at(DAY))
    told = nights(33, {0: [cap()]}, [yes])
    assert states(told[29]) == ["accepted"] and states(told[30]) == ["expired"] and told[31] == []


def test_of_two_equal_changes_the_larger_promise_speaks() -> None:
    (row,) = standing(DAY, [cap(kwh=kwh).row() for kwh in (5, 7, 6)], [], [])
    assert row["expected_saving_kwh"] == 7


@given(st.sampled_from(sorted(ALLOWED)), st.sampled_from(["accepted", "applied", "rejected", "withdrawn"]))
def test_a_decision_that_the_state_does_not_allow_is_refused_with_those_it_does(
    state: str, wanted: str
) -> None:
    if wanted in ALLOWED[state]:
        check_decision(state, wanted, "x")
    else:
        with pytest.raises(ConfigurationError, match=f"it is {state}"):
            check_decision(state, wanted, "x")


def test_promises_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        Estimate(1.0, 2.0, 3.0)
    with pytest.raises(AdviceError, match="method"):
        Advice(Subject("s"), "cooling", "x", "y", at(DAY), at(DAY), None, None, "z", carbon_method="location")
    with pytest.raises(AdviceError, match="currency"):
        Advice(
            Subject("s"),
            "cooling",
            "x",
            "y",
            at(DAY),
            at(DAY),
            None,
            None,
            "z",
            saving_cost=Estimate(1, 1, 1),
        )


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.floats(0, 1e3), st.floats(-10, 10))
def test_a_promise_in_another_unit_keeps_its_ends_in_order(
    expected: float, below: float, above: float, factor: float
) -> None:
    other = Estimate(expected, expected - below, expected + above).times(factor)
    assert other.lower <= other.value <= other.upper
