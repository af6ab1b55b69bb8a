"""Faults of stated size in real GPU servers and a simulated rack: AUC of each class, and false alarms on what is clean.

    python -m bench.anomalies [--seeds 3] [--nodes 8]

**Real.** The three BioHPC servers, GPU board energy an hour. Each month is judged as the stage diagnose judges a night
(`with_expected_by_load`, `devices`, `score`): expected energy, usual values, levels of idle and bounds are learnt from
the HISTORY_DAYS before it. The first third of each server is learnt from alone.

**What was chosen where.** The design saw the older judged months: docs/anomalies.md says which versions were compared.
The newest HELD_MONTHS of each server chose nothing of the step's score; they are judged apart, all servers together.

**Simulated.** `--nodes` nodes of one rack of four 400 W boards each, 90 days a seed; 30 days teach, 35 bound, 25 are
judged.

**AUC.** Of the score of the fault's own kind: the highest score while the fault lasts against that of equally long
clean stretches of the same month and device (four each), which may hold real oddities: nobody labelled these months.
Magnitudes stand in bench/inject.py. A stuck sensor or idle draw is put where the load moves or rests, as else there is
nothing to see: expected energy varying by 5 % over the window; utilisation below 10 %.

**False alarms.** Stretches of score above 1 on clean data, joined over 6 h, for each device-month, of all kinds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from bench import inject
from bench.inputs import REAL
from bench.measure import Figure, figure, print_figures, write
from bench.racks import simulated_rack
from lepton_etl.diagnosis.anomalies import (
    HISTORY_DAYS,
    Bound,
    DeviceHours,
    Scores,
    bins,
    devices,
    score,
    with_expected_by_load,
)

Floats = NDArray[np.float64]

SERVERS: Final = ("cbsugpu05", "cbsugpu06", "cbsugpu08")
MONTH_H: Final = 30 * 24
HELD_MONTHS: Final = 3
FIRST_JUDGED_SHARE: Final = 0.35
QUIET_STRETCHES: Final = 4
TARGET_AUC: Final = 0.85
LENGTHS_H: Final = {
    "stuck": inject.STUCK_H, "drift": inject.DRIFT_DAYS * 24, "scale": inject.SCALE_DAYS * 24,
    "step": inject.STEP_H, "idle_but_drawing": inject.IDLE_H, "rack": inject.RACK_H,
}  # fmt: skip
# Faults that move the log ratio at once, and hours of like load that a filter that knows them compares with.
MATCHED: Final = ("step", "scale")
MATCHED_BEFORE_H: Final = 48


@dataclass(frozen=True)
class Case:
    """Devices of one rack over one judged stretch, and the hours before it that bound them."""

    history: list[DeviceHours]
    hours: list[DeviceHours]
    rated_kwh: float


def server_rows(root: Path, server: str) -> pl.DataFrame:
    """Hours of one server on its wall clock, taken as a clock without changes: an hour twice a year is merged."""
    path = root / "biohpc-gpu-servers" / f"{server}_usage_stats.txt.gz"
    rows = pl.read_csv(path, separator="\t", infer_schema=False, truncate_ragged_lines=True)
    numbers = [name for name in rows.columns if name not in ("name", "timestamp")]
    return (
        rows.filter(pl.col(rows.columns[0]) == server)
        .with_columns(
            pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S%.f").alias("hour_start"),
            pl.col(numbers).cast(pl.Float64, strict=False),
        )
        .group_by("hour_start").agg(pl.col(numbers).mean()).sort("hour_start")
    )  # fmt: skip


def server_cases(root: Path, server: str) -> Iterator[Case]:
    """Judged months of one server, each with the days before it that a night would read."""
    rows = server_rows(root, server).select(
        pl.lit("biohpc").alias("site_id"),
        pl.lit("gpu").alias("cluster_id"),
        pl.lit(None, pl.String).alias("rack_id"),
        pl.lit(server).alias("node_id"),
        pl.lit("gpu").alias("device_id"),
        pl.col("hour_start").dt.replace_time_zone("UTC"),
        pl.col("hour_start").dt.date().alias("date"),
        (pl.col("powerave") / 1000).alias("energy_kwh"),
        (pl.col("utilave") / 100).alias("load_ratio"),
    )
    start: datetime = rows["hour_start"][0].replace(hour=0)
    length = int((rows["hour_start"][-1] - start).total_seconds()) // 3600 + 1
    first = max(int(length * FIRST_JUDGED_SHARE) // MONTH_H, 4) * MONTH_H
    for judged in range(first, length - MONTH_H + 1, MONTH_H):
        begin = start + timedelta(hours=judged)
        end = begin + timedelta(hours=MONTH_H)
        known = rows.filter(
            pl.col("hour_start").is_between(begin - timedelta(days=HISTORY_DAYS), end, closed="left")
        )
        if known.filter(pl.col("hour_start") >= begin).height < MONTH_H / 2:
            continue
        one = devices(with_expected_by_load(known, begin.date()))[0]
        before = int((begin - one.first_hour).total_seconds()) // 3600
        rated = known.filter(pl.col("hour_start") < begin).select(pl.col("energy_kwh").max()).item()
        yield Case([one.part(0, before)], [one.part(before, len(one.measured_kwh))], rated)


def faulty(case: Case, kind: str, start: int, which: int) -> list[DeviceHours]:
    """The judged hours with one fault from `start` on, in one device or in all."""
    out = []
    for number, one in enumerate(case.hours):
        energy = one.measured_kwh
        if number == which or kind == "rack":
            energy = {
                "stuck": lambda e=energy: inject.stuck(e, start),
                "drift": lambda e=energy: inject.drift(e, start),
                "scale": lambda e=energy: inject.times(e, start, inject.SCALE_DAYS * 24, inject.SCALE),
                "step": lambda e=energy: inject.times(e, start, inject.STEP_H, inject.STEP),
                "idle_but_drawing": lambda e=energy: inject.idle_draw(e, start, case.rated_kwh),
                "rack": lambda e=energy: inject.times(e, start, inject.RACK_H, inject.RACK),
            }[kind]()
        out.append(replace(one, measured_kwh=energy))
    return out


def possible(hours: DeviceHours, kind: str) -> NDArray[np.int64]:
    """Starts at which a fault of this kind can show."""
    length, total = LENGTHS_H[kind], len(hours.measured_kwh)
    windows = np.lib.stride_tricks.sliding_window_view(hours.measured_kwh, length)
    fits = np.isfinite(windows).mean(axis=1) > 0.8
    if kind == "stuck":
        expected = np.lib.stride_tricks.sliding_window_view(hours.expected_kwh, length)
        with np.errstate(invalid="ignore"):
            fits &= np.isfinite(windows).all(axis=1) & (expected.std(axis=1) > 0.05 * expected.mean(axis=1))
        fits[1:] &= np.isfinite(hours.measured_kwh[: total - length])
    if kind == "idle_but_drawing":
        load = np.lib.stride_tricks.sliding_window_view(hours.load_ratio, length)
        fits &= (load < 0.10).all(axis=1)
    fits[:1] = False
    return np.flatnonzero(fits)


def highest(
    scores: tuple[list[Scores], Floats | None, Bound | None], kind: str, which: int, start: int
) -> float:
    """The highest score of a kind while a fault lasts; nothing known scores 0."""
    devices, shared, bound = scores
    of_rack = None if shared is None or bound is None else np.abs(shared) / bound.bound
    values = of_rack if kind == "rack" else devices[which].by_kind.get(kind)
    known = np.array([0.0]) if values is None else values[start : start + LENGTHS_H[kind]]
    known = known[np.isfinite(known)]
    return float(known.max()) if len(known) else 0.0


def matched(before: DeviceHours, hours: DeviceHours, kind: str, start: int) -> float:
    """Return by how much the log ratio moved over the hours of a fault from `start` on, by a filter that knows them.

    The mean of the hours, each less the median of the newest MATCHED_BEFORE_H hours of like load before `start`: a
    yardstick of what a detector could see that was told begin, length and sign.
    """
    value = np.concatenate([before.log_ratio, hours.log_ratio])
    at = bins(np.concatenate([before.load_ratio, hours.load_ratio]))
    start += len(before.measured_kwh)
    window = slice(start, start + LENGTHS_H[kind])
    off = np.full(LENGTHS_H[kind], np.nan)
    for number in np.unique(at[window]):
        alike = value[:start][(at[:start] == number) & np.isfinite(value[:start])][-MATCHED_BEFORE_H:]
        if len(alike):
            inside = at[window] == number
            off[inside] = value[window][inside] - np.median(alike)
    return float(np.nanmean(off)) if np.isfinite(off).any() else 0.0


def alarms(devices: Sequence[Scores]) -> dict[str, int]:
    """Stretches of hours above 1, joined over 6 h, by kind."""
    found: dict[str, int] = defaultdict(int)
    for device in devices:
        for kind, values in device.by_kind.items():
            above = np.flatnonzero(np.nan_to_num(values) > 1)
            found[kind] += int((np.diff(above) > 6).sum()) + (len(above) > 0)
    return found


def judge(
    cases: Sequence[Case], kinds: Sequence[str], seeds: int
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """AUC by kind, share of faults that alarm by kind, and false alarms of a device-month by kind."""
    faults: dict[str, list[float]] = defaultdict(list)
    clean: dict[str, list[float]] = defaultdict(list)
    allowed: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    alarmed: dict[str, float] = defaultdict(float)
    months = 0.0
    for number, case in enumerate(cases):
        quiet = score(case.history, case.hours)
        months += sum(np.isfinite(one.measured_kwh).sum() / MONTH_H for one in case.hours)
        for kind, count in alarms(quiet[0]).items():
            alarmed[kind] += count
        for kind in kinds:
            for seed in range(seeds):
                rng = np.random.default_rng([seed, number, sum(kind.encode())])
                which = int(rng.integers(len(case.hours)))
                starts = possible(case.hours[which], kind)
                if not len(starts):
                    continue
                start = int(rng.choice(starts))
                wrong = faulty(case, kind, start, which)
                calm = [int(one) for one in rng.choice(starts, QUIET_STRETCHES)]
                faults[kind].append(highest(score(case.history, wrong), kind, which, start))
                clean[kind] += [highest(quiet, kind, which, one) for one in calm]
                if kind in MATCHED:
                    before = case.history[which]
                    allowed[kind][0].append(matched(before, wrong[which], kind, start))
                    allowed[kind][1].extend(matched(before, case.hours[which], kind, one) for one in calm)
    auc = {kind: _auc(faults[kind], clean[kind]) for kind in kinds if faults[kind]}
    auc |= {f"{kind}, by a filter that knows it": _auc(*pair) for kind, pair in allowed.items()}
    told = {kind: float((np.array(values) > 1).mean()) for kind, values in faults.items()}
    return auc, told, {kind: count / months for kind, count in alarmed.items()}


def _auc(faults: Sequence[float], clean: Sequence[float]) -> float:
    return float(roc_auc_score([1] * len(faults) + [0] * len(clean), [*faults, *clean]))


def figures_of(label: str, cases: Sequence[Case], kinds: Sequence[str], seeds: int) -> list[Figure]:
    auc, told, alarmed = judge(cases, kinds, seeds)
    rounds = len(cases) * seeds
    found = [
        figure(
            f"{label}: AUC {kind}", value, "ratio", rounds, None, TARGET_AUC if kind in LENGTHS_H else None
        )
        for kind, value in auc.items()
    ]
    found += [figure(f"{label}: faults that alarm, {k}", v, "ratio", rounds) for k, v in told.items()]
    found += [figure(f"{label}: false alarms, {k}", v, "1/month", len(cases)) for k, v in alarmed.items()]
    return [*found, figure(f"{label}: false alarms, all kinds", sum(alarmed.values()), "1/month", len(cases))]


def main() -> None:
    """Print the figures, and write var/bench/anomalies.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument(
        "--held", action="store_true", help="judge the newest months too, which chose nothing"
    )
    parser.add_argument("--only", choices=("real", "simulated"))
    asked = parser.parse_args()
    root = REAL
    found: list[Figure] = []
    kinds = [kind for kind in LENGTHS_H if kind != "rack"]
    if asked.only != "simulated":
        held: list[Case] = []
        for server in SERVERS:
            cases = list(server_cases(root, server))
            held += cases[-HELD_MONTHS:]
            found += figures_of(server, cases[:-HELD_MONTHS], kinds, asked.seeds)
        if asked.held:
            found += figures_of(f"newest {HELD_MONTHS} months of each", held, kinds, asked.seeds * 4)
    if asked.only != "real":
        seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
        cases = [Case(*simulated_rack(seed, asked.nodes)) for seed in seeds]
        found += figures_of("simulated rack", cases, list(LENGTHS_H), asked.seeds * 4)
    print_figures("Faults of stated size (bench/inject.py)", found)
    write("anomalies", found)


if __name__ == "__main__":
    main()
