"""What waiting is worth on real grids: share of the clairvoyant saving, and grams, by the plan and by simple rules.

    python -m bench.savings_shift [--zones SG GB ...] [--weeks 8]

The experiment is that of bench/forecast.py: five zones of 2023, a job an hour, 8 whole hours of the 24 that follow its
release, planned anew every hour with nothing stamped at or after it, no weather; only `--weeks` weeks are learnt from
before. Arms: the fusion of bench/forecast.py; a ridge pooled over zones (bench/pooled_forecast.py); `the plan`,
the plain mean of both; the 7-day profile.

**What sees what.** The pooled ridge learns from the zone itself, the other four zones of 2023 up to the same hour, and
the four EIA-930 series of 2022 (CISO, ERCO, NYIS, PJM: life-cycle medians, so their shape alone). CISO and ERCO so have
a year of their own before; DE-LU, GB and SG have none.

**What was chosen where.** On EIA-930 of 2022 (ERCO, PJM, NYIS; share of the clairvoyant saving): the weight of other
zones (0, 0.1, 0.3, 1), the drift of the week among four (of nine further inputs), the mean of both arms (against 1:0,
2:1), and what was dropped: boosted trees from scratch (0.55 in ERCO 2022, the fusion 0.66), boosting the pooled ridge,
means of five ridges, counting an hour dearer or cheaper by its doubt. The fusion's own history is in bench/forecast.py.
On 2023 three runs were seen: the pool without and with the series of 2022, and that without the other zones of 2023;
the second is kept because it has most data, not because it is best everywhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from bench.forecast import NEED_H, TARGETS, WINDOW_H, zone_hours
from bench.inputs import REAL
from bench.measure import Figure, figure, print_figures, write
from bench.pooled_forecast import PooledZone, pooled_ridge
from bench.shifting import shift
from lepton_etl.forecast.grid_intensity import WEEK_H, ZoneSeries, profile, replay, zone_series

EIA: Final = Path("grid-ci-eia930-2022")
# Whole hours by which a zone's solar time is behind UTC.
BEHIND_UTC_H: Final = {
    "US-CAL-CISO": 8, "SG": -7, "DE-LU": -1, "GB": 0, "US-TEX-ERCO": 6, "CISO": 8, "ERCO": 6, "NYIS": 5, "PJM": 5,
}  # fmt: skip
EARLIER: Final = ("CISO", "ERCO", "NYIS", "PJM")


def earlier_hours(root: Path, zone: str) -> ZoneSeries:
    """The average intensity of one EIA-930 series of 2022."""
    rows = pl.read_csv(root / EIA / f"{zone}_NG_avgCI.csv.gz", infer_schema=False)
    return zone_series(
        rows.select(
            pl.col("timestamp").str.to_datetime(time_zone="UTC").alias("hour_start"),
            pl.col("avg_CI").cast(pl.Float64, strict=False).alias("carbon_intensity_gco2e_per_kwh"),
            pl.lit(False).alias("estimated"),
        )
    )


def zone_figures(zone: str, pool: dict[str, PooledZone], weeks: int) -> list[Figure]:
    """All arms of one zone."""
    series = pool[zone].series
    done = replay(series, len(series.known))
    pooled = pooled_ridge(
        pool[zone], [other for name, other in pool.items() if name != zone], done.first, WINDOW_H
    )
    fused = done.fused[:, :WINDOW_H]
    pooled = np.where(np.isfinite(pooled), pooled, fused)
    released = np.arange(weeks * WEEK_H, len(series.known) - WINDOW_H + 1)
    arms = {
        "the plan": (pooled + fused) / 2,
        "fusion alone": fused,
        "pooled ridge alone": pooled,
        "7-day profile": profile(series, np.arange(done.first, len(series.known) + 1)),
    }
    found = []
    for name, arm in arms.items():
        one = shift(series.known, arm, done.first, released, NEED_H, WINDOW_H)
        target = TARGETS.get(zone) if name == "the plan" else None
        found.append(
            figure(
                f"{zone}: share of the clairvoyant saving, {name}",
                one.share,
                "ratio",
                one.jobs,
                at_least=target,
            )
        )
        found.append(
            figure(f"{zone}: less than at once, {name}", one.at_once - one.planned, "g/kWh", one.jobs)
        )
    best = one.at_once - one.clairvoyant
    return [*found, figure(f"{zone}: less than at once, clairvoyant", best, "g/kWh", one.jobs)]


def figures(zones: list[str] | None = None, weeks: int = 8) -> list[Figure]:
    """Every zone; all zones of 2023 are in the pool, whichever are shown."""
    root = REAL
    pool = {zone: PooledZone(zone_hours(root, zone), BEHIND_UTC_H[zone]) for zone in TARGETS}
    pool |= {zone: PooledZone(earlier_hours(root, zone), BEHIND_UTC_H[zone]) for zone in EARLIER}
    return [one for zone in zones or list(TARGETS) for one in zone_figures(zone, pool, weeks)]


def main() -> None:
    """Print the figures, and write var/bench/savings_shift.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zones", nargs="+", default=None)
    parser.add_argument("--weeks", type=int, default=8)
    asked = parser.parse_args()
    with threadpool_limits(2):
        found = figures(asked.zones, asked.weeks)
    print_figures("Waiting for cleaner hours on real grids, 8 of 24 h, planned anew every hour", found)
    write("savings_shift", found)


if __name__ == "__main__":
    main()
