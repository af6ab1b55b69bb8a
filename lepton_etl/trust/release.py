"""Aggregates of people's energy under differential privacy: one release a month, and the account that it is paid from.

Protected is whether a person (or tenant) has run jobs in the month at all, and how much: with and without any one of
them, every release is as likely up to a factor e^epsilon (pure differential privacy, add-or-remove neighbours). For a
person that is the whole release, of users and of tenants: in figures of tenants a person counts with at most
`user_max_tenants` of them, drawn at random, and with `user_max_kwh` in all. Of k tenants a person may bring k into the
count, and move k from one bin of the histogram into another: sensitivities k and 2k. Energies are
whole watt-hours between 0 and the policy's bound, sums are exact, the noise is the discrete Laplace distribution of
OpenDP: no last digit of a double tells anything. Figures of one release share its epsilon (basic composition), releases
of a consumer its budget of the year. Source: C. Dwork and A. Roth, The Algorithmic Foundations of Differential Privacy,
2014; C. Canonne and others, The Discrete Gaussian for Differential Privacy, 2020; R. Wilson and others, Differentially
Private SQL with Bounded User Contribution, 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from hashlib import sha256
from typing import Any, Final

import polars as pl

from lepton_etl.errors import Exit, LeptonError
from lepton_etl.schema.jobs import RUN_KEY
from lepton_etl.schema.release import STATISTICS, UNITS
from lepton_etl.trust.access import Release

WH_PER_KWH: Final = 1000
_OUTSIDE_RATIO: Final = 0.05
# Lower ends of the histogram's bins, as shares of the bound of one person.
_BINS: Final = (0.0, 0.001, 0.01, 0.05, 0.2, 0.5)
Mechanism = Callable[[Sequence[int]], Any]


class BudgetSpentError(LeptonError):
    """A consumer's budget of the year does not hold another release; nothing was drawn."""

    exit_code = Exit.QUALITY_GATE


@dataclass(frozen=True)
class Noisy:
    """A statistic with noise: draws it of one value each person, with what it costs and how far off it is."""

    draw: Mechanism
    epsilon: float
    scale: float

    @property
    def error(self) -> float:
        """Half-width that holds the noise in 95 % of draws: P(|X| > t) = 2 q^(t+1) / (1 + q), q = e^(-1 / scale)."""
        q = math.exp(-1 / self.scale)
        return max(0.0, math.ceil(-self.scale * math.log(_OUTSIDE_RATIO * (1 + q) / 2) - 1))


def noisy_count(epsilon: float, reach: int = 1) -> Noisy:
    """Return how many there are; of any values, of which one person brings `reach`."""
    dp = _opendp()
    return _noisy(dp.t.then_count(), reach / epsilon, reach)


def noisy_sum(epsilon: float, bound: int) -> Noisy:
    """Return the sum of values, each taken as between 0 and `bound`."""
    dp = _opendp()
    return _noisy(dp.t.then_clamp((0, bound)) >> dp.t.then_sum(), bound / epsilon)


def noisy_histogram(epsilon: float, bins: int, reach: int = 1) -> Noisy:
    """Return how many of the values are each of 0 .. bins - 1; `reach` are taken out and put in by one person."""
    dp = _opendp()
    counts = dp.t.then_count_by_categories(categories=list(range(bins)), null_category=False)
    return _noisy(counts, reach / epsilon, reach)


def _noisy(transformation: Any, scale: float, reach: int = 1) -> Noisy:
    dp = _opendp()
    space = dp.vector_domain(dp.atom_domain(T=int)), dp.symmetric_distance()
    mechanism = space >> transformation >> dp.m.then_laplace(scale)
    return Noisy(mechanism, mechanism.map(reach), scale)


@cache
def _opendp() -> Any:
    import opendp.prelude as dp

    dp.enable_features("contrib")
    return dp


def energy_by_unit(
    jobs: pl.DataFrame, runs: pl.DataFrame, unit: str, policy: Release, month: str
) -> pl.DataFrame:
    """Rows of gold/job_energy and silver/job_run of a month -> site_id, whole watt-hours `wh` of each person or tenant.

    A day whose energy is not covered counts 0. A run without a user is its tenant's, without both nobody's. A tenant's
    are of its people as far as each of them counts.
    """
    key = (*RUN_KEY, "date")
    users = runs.select(*key, "user_name").unique(key, keep="first")
    energy = jobs.select(*key, "tenant_id", "it_energy_kwh").join(users, on=key, how="left")
    whole = (pl.col("it_energy_kwh").sum() * WH_PER_KWH).round().cast(pl.Int64).alias("wh")
    if unit == "user":
        person = pl.coalesce("user_name", "tenant_id").alias("_of")
        return energy.group_by("site_id", person).agg(whole).drop_nulls("_of").drop("_of")
    shares = energy.drop_nulls("tenant_id").group_by("site_id", "user_name", "tenant_id").agg(whole)
    return (
        _bounded(shares, policy, month)
        .group_by("site_id", "tenant_id")
        .agg(pl.col("wh").sum())
        .drop("tenant_id")
    )


def _bounded(shares: pl.DataFrame, policy: Release, month: str) -> pl.DataFrame:
    """Shares (site_id, user_name, tenant_id, wh) as far as a person counts: of some tenants, up to the bound in all.

    Which tenants hangs on the person and the month alone, never on energies or on others: neighbours differ in no more.
    """
    drawn = pl.concat_str("user_name", "tenant_id", pl.lit(month), separator="\0").map_elements(
        lambda text: sha256(text.encode()).digest(), return_dtype=pl.Binary
    )
    whose = ("site_id", "user_name")
    named = shares.drop_nulls("user_name").with_columns(drawn.alias("_order")).sort("_order")
    counted = named.filter(pl.int_range(pl.len()).over(whose) < policy.user_max_tenants)
    before = pl.col("wh").cum_sum().over(whose) - pl.col("wh")
    rest = (round(policy.user_max_kwh * WH_PER_KWH) - before).clip(lower_bound=0)
    capped = counted.with_columns(pl.min_horizontal("wh", rest).alias("wh")).select(shares.columns)
    # Of whom accounting does not name, nobody knows which runs are the same person's: they are their tenant.
    return pl.concat([capped, shares.filter(pl.col("user_name").is_null())])


def released(
    jobs: pl.DataFrame,
    runs: pl.DataFrame,
    policy: Release,
    site_id: str,
    month: str,
    consumer: str,
    now: datetime,
) -> list[dict[str, Any]]:
    """Draw the release of a site's month: rows of ops/release without the run; their epsilons are the policy's.

    Half goes to each unit, of it a half to energy and a quarter each to count and histogram.
    """
    rows = []
    for unit in UNITS:
        bound_kwh = {"user": policy.user_max_kwh, "tenant": policy.tenant_max_kwh}[unit]
        energies = energy_by_unit(jobs, runs, unit, policy, month).filter(site_id=site_id)["wh"].to_list()
        reach = policy.user_max_tenants if unit == "tenant" else 1
        # A tenant that stays, with one person less, leaves one bin for another.
        reach_of_bins = 2 * reach if unit == "tenant" else 1
        bound, share = round(bound_kwh * WH_PER_KWH), policy.epsilon / len(UNITS)
        ends = [round(bound * part) for part in _BINS]
        bins = [sum(wh >= end for end in ends[1:]) for wh in energies]
        drawn: dict[str, tuple[Noisy, Sequence[int], float]] = {
            "count": (noisy_count(share / 4, reach), energies, 1.0),
            "energy": (noisy_sum(share / 2, bound), energies, 1 / WH_PER_KWH),
            "histogram": (noisy_histogram(share / 4, len(ends), reach_of_bins), bins, 1.0),
        }
        for statistic in STATISTICS:
            noisy, values, scale = drawn[statistic]
            of_bins = noisy.draw(values) if statistic == "histogram" else [noisy.draw(values)]
            for place, value in enumerate(of_bins):
                rows.append({
                    "consumer": consumer, "site_id": site_id, "month": month, "protected_unit": unit,
                    "released_statistic": statistic,
                    "bin_from_kwh": ends[place] / WH_PER_KWH if statistic == "histogram" else None,
                    "released_value": value * scale, "released_error": noisy.error * scale, "clamp_kwh": bound_kwh,
                    "epsilon": noisy.epsilon, "released_time": now,
                })  # fmt: skip
    return rows


def spent(rows: pl.DataFrame, consumer: str, year: str) -> float:
    """Return the epsilon that a consumer has had of a calendar year's data: rows of ops/release."""
    of_year = rows.filter(pl.col("consumer") == consumer, pl.col("month").str.starts_with(f"{year}-"))
    # The bins of a histogram are one statistic.
    statistics = of_year.unique(["site_id", "month", "protected_unit", "released_statistic"])
    return math.fsum(statistics["epsilon"])


def refuse_overdraft(rows: pl.DataFrame, policy: Release, consumer: str, month: str) -> None:
    """Raise BudgetSpentError where the consumer has no budget, or its rest does not hold another release."""
    budget = policy.budgets.get(consumer)
    year = month[:4]
    had = spent(rows, consumer, year)
    if budget is None or had + policy.epsilon > budget * (1 + 1e-9):
        account = "no budget" if budget is None else f"{had:.3g} of {budget:.3g} spent"
        raise BudgetSpentError(
            f"consumer {consumer} has {account} for data of {year}; a release of {month} costs {policy.epsilon:.3g}",
            where="release.budgets",
            remedy="what was released may be read again; another budget is a decision about people, in the policy",
        )
