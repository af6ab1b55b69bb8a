"""Keep the states of a recommendation: proposed, accepted, applied, expired, rejected.

Every night the levers propose afresh. What is the same change of the same subject keeps its identity and its first day;
what a person has accepted keeps the promise that they accepted, whatever the levers say since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError

PROPOSED, ACCEPTED, APPLIED, EXPIRED, REJECTED = "proposed", "accepted", "applied", "expired", "rejected"
WITHDRAWN: Final = "withdrawn"
# What was rejected is not proposed again for so long.
REJECTED_DAYS: Final = 30
# From state to the decisions that a person may take there.
ALLOWED: Final[Mapping[str, tuple[str, ...]]] = {
    PROPOSED: (ACCEPTED, APPLIED, REJECTED),
    ACCEPTED: (APPLIED, REJECTED, WITHDRAWN),
    APPLIED: (WITHDRAWN,),
    EXPIRED: (),
    REJECTED: (ACCEPTED, APPLIED),
}
_KEPT: Final = (ACCEPTED, APPLIED)


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person decided about a recommendation, and from when it holds (UTC)."""

    recommendation_id: str
    decision: str
    decided_time: datetime
    effective_time: datetime


def check_decision(state: str, decision: str, recommendation_id: str) -> None:
    """Raise ConfigurationError for a decision that the state does not allow, naming those that it does."""
    allowed = ALLOWED[state]
    if decision not in allowed:
        raise ConfigurationError(
            f"it is {state}: it cannot become {decision}",
            where=f"recommendation {recommendation_id}",
            remedy=f"one of {', '.join(allowed)}" if allowed else "wait until it is proposed again",
        )


def standing(
    day: date,
    proposals: Iterable[Mapping[str, Any]],
    before: Sequence[Mapping[str, Any]],
    decisions: Iterable[Decision],
) -> list[dict[str, Any]]:
    """Return rows of gold/recommendation at the end of a UTC day, by id.

    `proposals` are rows of `Advice.row`, valued or not; `before` are the rows of the newest earlier night, `decisions`
    all of them: those recorded after the day's end do not count, so that a re-run of the day gives the same rows. What
    expired or was withdrawn stands once more, as such.
    """
    end = Days.of(day).until_time
    earlier = {row["recommendation_id"]: row for row in before}
    # Of two levers that say the same the one that promises more speaks.
    fresh: dict[str, Mapping[str, Any]] = {}
    for advice in proposals:
        own = fresh.get(advice["recommendation_id"])
        if own is None or _promised(advice) > _promised(own):
            fresh[advice["recommendation_id"]] = advice
    newest = _newest(decisions, end)
    found = []
    for name in sorted({*earlier, *fresh}):
        row = _row(day, end, fresh.get(name), earlier.get(name), newest.get(name))
        if row is not None:
            found.append(row)
    return found


def state_now(row: Mapping[str, Any], decisions: Iterable[Decision]) -> str:
    """Return the state of a row of gold/recommendation with the decisions taken since its night."""
    own = [one for one in decisions if one.recommendation_id == row["recommendation_id"]]
    later = [one for one in own if one.decided_time > row["state_time"]]
    if not later or row["recommendation_state"] == EXPIRED:
        return str(row["recommendation_state"])
    newest = max(later, key=lambda one: one.decided_time)
    return EXPIRED if newest.decision == WITHDRAWN else newest.decision


def _row(
    day: date,
    end: datetime,
    fresh: Mapping[str, Any] | None,
    before: Mapping[str, Any] | None,
    decision: Decision | None,
) -> dict[str, Any] | None:
    if before is not None and before["recommendation_state"] == EXPIRED:
        # Said once. What is found again begins anew, and an old decision was not about it.
        if decision is not None and decision.decided_time <= before["state_time"]:
            decision = None
        before = None
    state, since = _decided(before, decision, end)
    if before is None and fresh is None:
        return None
    kept = before is not None and (state in _KEPT or fresh is None)
    row = dict(before) if kept and before is not None else dict(fresh or {})
    row["date"] = day
    row["first_proposed_date"] = before["first_proposed_date"] if before is not None else day
    if state == REJECTED and (end - since).days >= REJECTED_DAYS:
        if fresh is None:
            return None
        state, since, row["first_proposed_date"] = PROPOSED, end, day
    elif (state == PROPOSED and fresh is None) or (state == ACCEPTED and row["window_end"] <= end):
        state, since = EXPIRED, end
    row["recommendation_state"], row["state_time"] = state, since
    return row


def _decided(
    before: Mapping[str, Any] | None, decision: Decision | None, end: datetime
) -> tuple[str, datetime]:
    """Return the state by the newest decision, and since when; without one as it was."""
    if decision is not None:
        if decision.decision == WITHDRAWN:
            return EXPIRED, decision.decided_time
        return decision.decision, decision.effective_time
    if before is not None:
        return before["recommendation_state"], before["state_time"]
    return PROPOSED, end


def _newest(decisions: Iterable[Decision], end: datetime) -> dict[str, Decision]:
    known = sorted((one for one in decisions if one.decided_time < end), key=lambda one: one.decided_time)
    return {one.recommendation_id: one for one in known}


def _promised(row: Mapping[str, Any]) -> float:
    return float(row["expected_saving_kwh"] or 0.0)
