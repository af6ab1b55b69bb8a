"""Releases under differential privacy: noise and account as theory says, and what an attacker is left with."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from scipy import stats

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

DRAWS = 1_000
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
    assert energy_by_unit(used, same, "user").to_dicts() == [{"site_id": "s", "wh": 700}]
    assert sorted(energy_by_unit(used, ran, "tenant")["wh"]) == [200, 500]
    unknown = used.with_columns(it_energy_kwh=pl.lit(None, pl.Float64))
    assert energy_by_unit(unknown, same, "user")["wh"].to_list() == [0]
    exact = sum(min(wh, BOUND) for wh in PEOPLE)
    near = [noisy_sum(1e6, BOUND).draw(PEOPLE) for _ in range(20)]
    assert all(abs(value - exact) <= 20 for value in near)


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
