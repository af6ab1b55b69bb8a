"""Releases under differential privacy: noise and account as theory says, and what an attacker is left with."""

from __future__ import annotations

import math
import os
from collections import Counter
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from scipy import stats

from lepton_etl.schema.release import UNITS
from lepton_etl.trust import release
from lepton_etl.trust.access import Release
from lepton_etl.trust.release import (
    BudgetSpentError,
    Noisy,
    energy_by_unit,
    noisy_count,
    noisy_histogram,
    noisy_sum,
    refuse_overdraft,
    released,
    spent,
)

# A release takes 6 ms: 1,000 in CI (EXAMPLES=40), a third of it in `make test`; bounds follow the number.
DRAWS = 25 * int(os.environ.get("EXAMPLES", "14"))
BOUND = 500_000
PEOPLE = [120_000, 800_000, 3_000, 0, 45_000, 260_000]
POLICY = Release(epsilon=1.0, user_max_kwh=500.0, tenant_max_kwh=2_000.0, budgets={"public": 2.0})
NOW = datetime(2025, 7, 2, tzinfo=UTC)


def jobs(energies: list[int], day: date = date(2025, 6, 3)) -> tuple[pl.DataFrame, pl.DataFrame]:
    """gold/job_energy and silver/job_run of a person a job, energies in Wh."""
    at = datetime(2025, 6, 3, tzinfo=UTC)
    key = [
        {"site_id": "s", "cluster_id": "c", "job_id": str(n), "submit_time": at, "restart": 0, "date": day}
        for n in range(len(energies))
    ]
    ran = [one | {"user_name": f"u{n}"} for n, one in enumerate(key)]
    used = [
        one | {"tenant_id": f"t{n % 2}", "it_energy_kwh": wh / 1000}
        for n, (one, wh) in enumerate(zip(key, energies, strict=True))
    ]
    return pl.DataFrame(used), pl.DataFrame(ran)


@pytest.mark.parametrize(
    ("noisy", "exact"),
    [
        (noisy_sum(0.5, BOUND), sum(min(wh, BOUND) for wh in PEOPLE)),
        (noisy_count(0.25), len(PEOPLE)),
    ],
)
def test_the_noise_is_what_theory_says(noisy: Noisy, exact: int) -> None:
    errors = np.array([noisy.draw(PEOPLE) - exact for _ in range(DRAWS)])
    # Five standard errors of each estimate: one run in a million is red by chance.
    q = math.exp(-1 / noisy.scale)
    variance = 2 * q / (1 - q) ** 2
    assert abs(errors.mean()) < 5 * math.sqrt(variance / DRAWS)
    outside = float((np.abs(errors) > noisy.error).mean())
    assert outside <= 0.05 + 5 * math.sqrt(0.05 * 0.95 / DRAWS)
    assert outside >= 0.02
    # Kolmogorov and Smirnov against the continuous Laplace distribution; of counts the steps are too wide.
    if noisy.scale > 1000:
        assert stats.kstest(errors, stats.laplace(scale=noisy.scale).cdf).pvalue > 1e-6


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0])
def test_each_statistic_costs_the_epsilon_that_it_was_asked_for(epsilon: float) -> None:
    for noisy in (noisy_sum(epsilon, BOUND), noisy_count(epsilon), noisy_histogram(epsilon, 6)):
        assert noisy.epsilon == pytest.approx(epsilon, rel=1e-9)


def test_neighbours_differ_by_no_more_than_e_to_epsilon_and_by_no_less_than_half_of_it() -> None:
    epsilon, draws = 1.0, 20_000
    noisy = noisy_count(epsilon)
    with_one, without = (Counter(noisy.draw(people) for _ in range(draws)) for people in (PEOPLE, PEOPLE[1:]))
    ratios = [
        math.log(with_one[value] / without[value])
        for value in with_one
        if min(with_one[value], without[value]) >= 500
    ]
    error = 5 * math.sqrt(2 / 500)
    assert max(map(abs, ratios)) <= epsilon + error
    # The promise is used: a mechanism of twice the noise would be no worse than half as far apart.
    assert max(map(abs, ratios)) > epsilon / 2


def test_the_epsilons_of_a_release_are_those_of_the_policy_together() -> None:
    used, ran = jobs(PEOPLE)
    rows = pl.DataFrame(released(used, ran, POLICY, "s", "2025-06", "public", NOW))
    assert spent(rows, "public", "2025") == pytest.approx(POLICY.epsilon, rel=1e-9)
    assert spent(rows, "press", "2025") == spent(rows, "public", "2024") == 0.0
    assert rows.group_by("protected_unit").len()["len"].to_list() == [8, 8]


def test_a_consumer_whose_budget_is_spent_gets_no_more() -> None:
    used, ran = jobs(PEOPLE)
    rows = pl.DataFrame(released(used, ran, POLICY, "s", "2025-06", "public", NOW))
    refuse_overdraft(rows, POLICY, "public", "2025-07")
    both = pl.concat([rows, rows.with_columns(month=pl.lit("2025-07"))])
    with pytest.raises(
        BudgetSpentError, match=r"2 of 2 spent for data of 2025; a release of 2025-08 costs 1"
    ):
        refuse_overdraft(both, POLICY, "public", "2025-08")
    refuse_overdraft(both, POLICY, "public", "2026-01")
    with pytest.raises(BudgetSpentError, match="no budget"):
        refuse_overdraft(both, POLICY, "press", "2025-08")


def test_a_person_is_all_of_their_jobs_and_counts_up_to_the_bound() -> None:
    used, ran = jobs([100, 200, 400])
    same = ran.with_columns(user_name=pl.lit("u"))
    assert energy_by_unit(used, same, "user", POLICY, "2025-06").to_dicts() == [{"site_id": "s", "wh": 700}]
    assert sorted(energy_by_unit(used, ran, "tenant", POLICY, "2025-06")["wh"]) == [200, 500]
    unknown = used.with_columns(it_energy_kwh=pl.lit(None, pl.Float64))
    assert energy_by_unit(unknown, same, "user", POLICY, "2025-06")["wh"].to_list() == [0]
    exact = sum(min(wh, BOUND) for wh in PEOPLE)
    near = [noisy_sum(1e6, BOUND).draw(PEOPLE) for _ in range(20)]
    assert all(abs(value - exact) <= 20 for value in near)


def rows_of(people: list[tuple[str | None, str, float]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """gold/job_energy and silver/job_run of (user, tenant, kWh), a job each."""
    used, ran = jobs([0] * len(people))
    users, tenants, kwh = zip(*people, strict=True)
    return (
        used.with_columns(tenant_id=pl.Series(tenants), it_energy_kwh=pl.Series(kwh)),
        ran.with_columns(user_name=pl.Series(users, dtype=pl.String)),
    )


def test_a_person_counts_with_some_tenants_and_with_the_bound_in_all() -> None:
    people = [("ann", tenant, 300.0) for tenant in ("a", "b", "c")]
    for month in ("2025-05", "2025-06", "2025-07"):
        counted = energy_by_unit(*rows_of(people), "tenant", POLICY, month)
        assert sorted(counted["wh"]) == [200_000, 300_000]
        # The others of a tenant change nothing in which ones a person counts with.
        more = energy_by_unit(*rows_of([*people, ("bob", "a", 1.0)]), "tenant", POLICY, month)
        assert more["wh"].sum() == 501_000
    # Of whom nobody knows who they are, each tenant is one: its bound is the tenant's.
    nobody = energy_by_unit(*rows_of([(None, "a", 900.0), (None, "b", 1.0)]), "tenant", POLICY, "2025-06")
    assert sorted(nobody["wh"]) == [1_000, 900_000]


Drawn = dict[tuple[str, str, float | None], float]


def figures(people: list[tuple[str | None, str, float]], policy: Release) -> Drawn:
    """What is released, by unit, statistic and bin."""
    rows = released(*rows_of(people), policy, "s", "2025-06", "public", NOW)
    return {
        (r["protected_unit"], r["released_statistic"], r["bin_from_kwh"]): r["released_value"] for r in rows
    }


def drawn(
    people: list[tuple[str | None, str, float]], policy: Release, monkeypatch: pytest.MonkeyPatch
) -> list[Drawn]:
    """1,000 releases of the same month; the sums, which are the same, are made once."""
    exact = {unit: energy_by_unit(*rows_of(people), unit, policy, "2025-06") for unit in UNITS}
    with monkeypatch.context() as patch:
        patch.setattr(release, "energy_by_unit", lambda _jobs, _runs, unit, *_: exact[unit])
        return [figures(people, policy) for _ in range(DRAWS)]


def losses(
    draws: list[Drawn], with_one: Drawn, without: Drawn, scales: dict[tuple[str, str], float]
) -> np.ndarray:
    """ln P(draw with) / P(draw without) of each draw, by theory."""
    return np.array([
        sum((abs(x - without[key]) - abs(x - with_one[key])) / scales[key[:2]] for key, x in draw.items())
        for draw in draws
    ])  # fmt: skip


@pytest.mark.parametrize("reach", [1, 2])
def test_the_epsilon_of_a_release_is_that_of_a_person_of_three_tenants(
    reach: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws with and without a person: none tells more than epsilon, and they are as likely as theory says."""
    policy = POLICY.model_copy(update={"epsilon": 4.0, "user_max_tenants": reach})
    others = [(f"u{n}", f"t{n % 3}", 40.0 * n) for n in range(9)]
    person = [("ann", tenant, 400.0) for tenant in ("t0", "t1", "own")]
    exact = policy.model_copy(update={"epsilon": 1e9})
    with_one, without = (
        {key: round(value, 3) for key, value in figures(people, exact).items()}
        for people in (others + person, others)
    )
    share = policy.epsilon / 2
    scales = {
        ("user", "count"): 4 / share, ("tenant", "count"): reach * 4 / share,
        ("user", "energy"): 500 * 2 / share, ("tenant", "energy"): 2_000 * 2 / share,
        ("user", "histogram"): 4 / share, ("tenant", "histogram"): 2 * reach * 4 / share,
    }  # fmt: skip
    draws = drawn(others + person, policy, monkeypatch)
    told = losses(draws, with_one, without, scales)
    assert np.abs(told).max() <= policy.epsilon + 1e-9
    # E[P(without) / P(with)] is 1 where the noise is of these scales: of wider or narrower ones it is not.
    ratio = np.exp(-told)
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(DRAWS)
    # The best guess which of the two it is.
    back = losses(drawn(others, policy, monkeypatch), with_one, without, scales)
    right = ((told > 0).mean() + (back < 0).mean()) / 2
    assert right <= math.exp(policy.epsilon) / (1 + math.exp(policy.epsilon)) + 5 * math.sqrt(
        0.25 / DRAWS / 2
    )
    # What theory rests on: how far the exact figures of neighbours lie apart.
    for statistic, most in (("count", reach), ("histogram", 2 * reach), ("energy", 500.0)):
        moved = sum(abs(with_one[key] - without[key]) for key in without if key[:2] == ("tenant", statistic))
        assert 0 <= moved <= most


def test_differencing_tells_a_persons_energy_from_the_exact_tables_and_not_from_what_was_released() -> None:
    """The attacker knows everybody's energy but that of the last person, and takes it off the total."""
    used, ran = jobs(PEOPLE)
    known, secret = sum(min(wh, BOUND) for wh in PEOPLE[:-1]) / 1000, PEOPLE[-1] / 1000
    exact = used["it_energy_kwh"].clip(upper_bound=POLICY.user_max_kwh).sum() - known
    assert exact == pytest.approx(secret, rel=1e-9)
    guesses = []
    for _ in range(300):
        rows = pl.DataFrame(released(used, ran, POLICY, "s", "2025-06", "public", NOW))
        total = rows.row(
            by_predicate=(pl.col("protected_unit") == "user") & (pl.col("released_statistic") == "energy"),
            named=True,
        )
        guesses.append(total["released_value"] - known)
        assert total["released_error"] > 10 * secret
    hits = np.mean([abs(guess - secret) <= 0.1 * secret for guess in guesses])
    # By theory 1 - e^(-0.1 secret / scale): one guess in 76.
    scale_kwh = POLICY.user_max_kwh / (POLICY.epsilon / 4)
    assert hits <= 1 - math.exp(-0.1 * secret / scale_kwh) + 5 * math.sqrt(0.013 / 300)
    # Whether the person ran at all: the better of two guesses is right at most e^epsilon / (1 + e^epsilon) of times.
    gone = secret / 2
    right = np.mean([guess > gone for guess in guesses])
    assert right <= math.exp(POLICY.epsilon / 4) / (1 + math.exp(POLICY.epsilon / 4)) + 5 * math.sqrt(
        0.25 / 300
    )
