"""A limit on the share of a burden that one tenant bears: kept, at the least price, by trying all choices."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.recommend.advice import Advice, Subject
from lepton_etl.recommend.fair_share import equal_or, fair_caps, within_share
from lepton_etl.recommend.job_shift import plan
from lepton_etl.uncertainty import Estimate
from tests.unit.recommend.job_problems import group, job, problem

AT = datetime(2025, 6, 4, tzinfo=UTC)


def shares(burden: np.ndarray, kept: np.ndarray) -> np.ndarray:
    of_tenant = burden[kept].sum(axis=0)
    return of_tenant / of_tenant.sum() if of_tenant.sum() else of_tenant


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 3), st.floats(0.1, 1.0))
def test_what_is_kept_saves_most_of_all_choices_within_the_limit(
    seed: int, count: int, tenants: int, limit: float
) -> None:
    rng = np.random.default_rng(seed)
    saving, burden = rng.uniform(0.1, 5, count), rng.integers(0, 5, (count, tenants)).astype(float)
    room = rng.integers(-2, 3, (2, count)).astype(float), rng.integers(0, 4, 2).astype(float)
    kept = within_share(saving, burden, limit, room)
    holds = equal_or(limit, burden)
    if not burden.any():
        assert kept.all()
        return

    def allowed(choice: np.ndarray) -> bool:
        own = burden[choice].sum(axis=0)
        return bool(
            (own <= holds * own.sum() + 1e-6).all()
            and (room[0][:, choice].sum(axis=1) <= room[1] + 1e-6).all()
        )

    assert allowed(kept)
    choices = (np.array(choice, dtype=bool) for choice in product([False, True], repeat=count))
    best = max(float(saving[choice].sum()) for choice in choices if allowed(choice))
    assert float(saving[kept].sum()) == pytest.approx(best, rel=2e-3)


def test_a_limit_below_an_equal_share_is_an_equal_share() -> None:
    assert equal_or(0.1, np.array([[1.0, 0.0, 1.0]])) == 0.5
    # One tenant alone bears all, whatever the limit.
    assert within_share(np.ones(2), np.array([[1.0], [2.0]]), 0.3).all()


def cap(job_class: str, saving_kwh: float, slowdown: float) -> Advice:
    return Advice(
        Subject("s", job_class=job_class), "power_cap", "set_power_limit", "cap", AT, AT, 100.0,
        Estimate(saving_kwh, saving_kwh, saving_kwh), "-", slowdown_ratio=Estimate(slowdown, slowdown, slowdown),
    )  # fmt: skip


def test_caps_are_left_out_until_no_tenant_bears_more_than_its_share() -> None:
    advice = [cap("x", 10.0, 0.04), cap("y", 6.0, 0.02), cap("z", 5.0, 0.02)]
    held = pl.DataFrame(
        {"tenant_id": ["a", "a", "b"], "job_class": ["x", "y", "z"], "gpu_h": [100.0, 100.0, 100.0]}
    )
    kept, price = fair_caps(advice, held, 0.5)
    # With x, tenant a would bear two thirds or more; y and z bear the same.
    assert [one.subject.job_class for one in kept] == ["y", "z"]
    assert (price.left_out, price.proposals, price.share_max_ratio) == (1, 3, 0.5)
    assert price.forgone_saving_kwh == 10.0 and price.forgone_saving_ratio == pytest.approx(10 / 21)
    assert fair_caps(advice, held, 0.75)[1].left_out == 0


def test_a_plan_takes_back_moves_of_the_tenant_that_would_bear_too_much() -> None:
    """Both hours of intensity 0.1 are free: three jobs of `a` and one of `b` would wait for them."""
    jobs = [job(f"a{n}", tenant_id="a") for n in range(3)] + [job("b", tenant_id="b")]
    asked = problem(jobs, [group(capacity=8.0)])
    free = plan(asked)
    assert sum(one.moved for one in free.jobs) == 4 and free.price is None
    limited = plan(type(asked)(asked.jobs, asked.groups, asked.sites, asked.hours, asked.objective, 0.5))
    moved = [one.job_id for one in limited.jobs if one.moved]
    assert "b" in moved and len(moved) == 2
    assert limited.price is not None and limited.price.left_out == 2
    assert limited.price.forgone_saving_kwh == pytest.approx(0.0)
    # Two of four equal moves: half of the saving, in the objective's unit.
    saved = free.savings.emissions_kgco2e.value
    assert limited.price.forgone_saving_kgco2e == pytest.approx(saved / 2)
    assert limited.savings.emissions_kgco2e.value == pytest.approx(saved / 2)
    assert any(note.startswith("delay: no tenant bears more than 50%") for note in limited.notes)


def test_a_move_that_was_taken_back_takes_no_room_of_another() -> None:
    """Of one GPU, `b` moved into the hours that `a` left: without a's move there is no room for b's."""
    jobs = [job("a", tenant_id="a", release_h=0), job("b", tenant_id="b", release_h=0)]
    asked = problem(jobs, [group(capacity=1.0)])
    limited = plan(type(asked)(asked.jobs, asked.groups, asked.sites, asked.hours, asked.objective, 0.5))
    used = np.zeros(asked.hours)
    for one in limited.jobs:
        used[list(one.hours)] += 1
    assert used.max() <= 1
