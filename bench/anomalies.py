"""Faults of stated size in real GPU servers and a simulated rack: AUC of each class, and false alarms on what is clean.

    python -m bench.anomalies [--seeds 3] [--nodes 8]

**Real.** The three BioHPC servers, GPU board energy an hour. Month by month: gradient boosting of load (GPU and memory
utilisation: mean, min, max; no temperature, which follows power) learns from all hours before the three months that
precede; those three, which it has not seen, give the bounds; the month is judged (levels of idle: twelve months). The
first third of each server is learnt from alone.

**What was chosen where.** Models and bounds never see the judged month, but the design did: three versions were judged
on these months. The first had means alone. The second, which this is, has levels of idle, day-to-day changes for drift,
and bounds from three months in place of two. The third added an expectation from die temperature and was dropped: it
doubled false alarms (docs/anomalies.md). So the figures are somewhat kind to the second. No numbers were searched; of
the simulated rack, seed 99 was looked at and is not reported.

Since then drift is judged over 14 days by changes over 1, 2 and 3 days, chosen of four forms on cbsugpu05 alone.

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
from datetime import UTC, datetime, timedelta
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
from lepton_etl.diagnosis.anomalies import DeviceHours, Scores, score

Floats = NDArray[np.float64]

SERVERS: Final = ("cbsugpu05", "cbsugpu06", "cbsugpu08")
MONTH_H: Final = 30 * 24
BOUND_H: Final = 3 * MONTH_H
LEVELS_H: Final = 12 * MONTH_H
FIRST_JUDGED_SHARE: Final = 0.35
QUIET_STRETCHES: Final = 4
TARGET_AUC: Final = 0.85
LENGTHS_H: Final = {
    "stuck": inject.STUCK_H, "drift": inject.DRIFT_DAYS * 24, "scale": inject.SCALE_DAYS * 24,
    "step": inject.STEP_H, "idle_but_drawing": inject.IDLE_H, "rack": inject.RACK_H,
}  # fmt: skip


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
    """Judged months of one server."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows = server_rows(root, server)
    start: datetime = rows["hour_start"][0]
    at = (rows["hour_start"] - start).dt.total_hours().to_numpy()
    length = int(at[-1]) + 1
    names = [f"{what}{how}" for what in ("util", "gmem") for how in ("ave", "min", "max")]
    features, power = np.full((length, len(names)), np.nan), np.full(length, np.nan)
    features[at], power[at] = rows.select(names).to_numpy(), rows["powerave"].to_numpy()
    first = max(int(length * FIRST_JUDGED_SHARE) // MONTH_H, 4) * MONTH_H
    for judged in range(first, length - MONTH_H + 1, MONTH_H):
        learnt = np.flatnonzero(np.isfinite(power[: judged - BOUND_H]))
        weight = 0.5 ** ((judged - learnt) / (180 * 24))
        model = HistGradientBoostingRegressor(max_iter=120, min_samples_leaf=20, random_state=1)
        model.fit(features[learnt], power[learnt], sample_weight=weight)
        reach = min(judged, LEVELS_H)
        span = slice(judged - reach, judged + MONTH_H)
        if np.isfinite(power[judged : judged + MONTH_H]).sum() < MONTH_H / 2:
            continue
        expected = np.where(np.isfinite(power[span]), model.predict(features[span]), np.nan)
        begin = start.replace(tzinfo=UTC) + timedelta(hours=judged - reach)
        whole = DeviceHours(
            "biohpc", "gpu", None, server, "gpu", begin, power[span] / 1000, expected / 1000,
            features[span, 0] / 100,
        )  # fmt: skip
        rated = float(np.nanmax(power[: judged - BOUND_H])) / 1000
        yield Case([whole.part(0, reach)], [whole.part(reach, reach + MONTH_H)], rated)


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


def highest(scores: tuple[list[Scores], Floats | None, object], kind: str, which: int, start: int) -> float:
    """The highest score of a kind while a fault lasts; nothing known scores 0."""
    devices, shared, _ = scores
    end = start + LENGTHS_H[kind]
    values = np.abs(shared) if kind == "rack" and shared is not None else devices[which].by_kind.get(kind)
    known = np.array([0.0]) if values is None else values[start:end]
    known = known[np.isfinite(known)]
    return float(known.max()) if len(known) else 0.0


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
) -> tuple[dict[str, float], dict[str, float]]:
    """AUC by kind, and false alarms of a device-month by kind."""
    faults: dict[str, list[float]] = defaultdict(list)
    clean: dict[str, list[float]] = defaultdict(list)
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
                judged = score(case.history, faulty(case, kind, start, which))
                faults[kind].append(highest(judged, kind, which, start))
                clean[kind] += [
                    highest(quiet, kind, which, int(one)) for one in rng.choice(starts, QUIET_STRETCHES)
                ]
    auc = {
        kind: float(
            roc_auc_score([1] * len(faults[kind]) + [0] * len(clean[kind]), faults[kind] + clean[kind])
        )
        for kind in kinds
        if faults[kind]
    }
    return auc, {kind: count / months for kind, count in alarmed.items()}


def figures_of(label: str, cases: Sequence[Case], kinds: Sequence[str], seeds: int) -> list[Figure]:
    auc, alarmed = judge(cases, kinds, seeds)
    rounds = len(cases) * seeds
    found = [
        figure(f"{label}: AUC {kind}", value, "ratio", rounds, at_least=TARGET_AUC)
        for kind, value in auc.items()
    ]
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
    parser.add_argument("--only", choices=("real", "simulated"))
    asked = parser.parse_args()
    root = REAL
    found: list[Figure] = []
    kinds = [kind for kind in LENGTHS_H if kind != "rack"]
    if asked.only != "simulated":
        for server in SERVERS:
            found += figures_of(server, list(server_cases(root, server)), kinds, asked.seeds)
    if asked.only != "real":
        seeds = range(asked.first_seed, asked.first_seed + asked.seeds)
        cases = [Case(*simulated_rack(seed, asked.nodes)) for seed in seeds]
        found += figures_of("simulated rack", cases, list(LENGTHS_H), asked.seeds * 4)
    print_figures("Faults of stated size (bench/inject.py)", found)
    write("anomalies", found)


if __name__ == "__main__":
    main()
