"""The simulated site of `conf/sites`, built from its frozen parameters and the real tables they name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from lepton_etl.optimize.replay.cluster import Floats, Ints, Jobs, Measured, Nodes, Run, Setting, Trial

SITE: Final = Path("conf/sites/simulated-gpu-site.yaml")
_ROW: Final = ["dataset", "network", "batch_size", "optimizer"]
_DAY_S: Final = 86400.0
_WINDOW_S: Final = 600.0
_LOGGED_S: Final = 3600.0


def parameters(path: Path = SITE) -> dict[str, Any]:
    """The frozen parameters."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Curves:
    """Real cap curves of the rows that all boards' tables have; time is relative to that at the highest cap.

    `caps_w[class]` the limits that the table knows; `time` and `power_w` [workload][class] at those it has, by cap.
    `relative[workload, class]`: time at the highest cap over that of the fastest class.
    """

    names: list[str]
    tasks: list[str]
    caps_w: list[Floats]
    limits: list[list[Floats]]
    time: list[list[Floats]]
    power_w: list[list[Floats]]
    relative: Floats

    def at(self, workload: int, kind: int, cap_w: float | None) -> tuple[float, float]:
        """Time over that without a cap, and mean power, W, at a cap; linear between the table's caps."""
        limits, time, power = (
            part[workload][kind] for part in (self.limits, self.time, self.power_w)
        )  # fmt: skip
        cap = float(limits[-1]) if cap_w is None else cap_w
        return float(np.interp(cap, limits, time)), float(np.interp(cap, limits, power))


def curves(data: Path, site: dict[str, Any]) -> Curves:
    """Read the power-limit tables of all board classes."""
    tables = [pl.read_csv(data / kind["gpu_table"]) for kind in site["nodes"]["classes"].values()]
    common = tables[0].select(_ROW).unique()
    for table in tables[1:]:
        common = common.join(table.select(_ROW).unique(), on=_ROW)
    common = common.sort(_ROW)
    limits: list[list[Floats]] = []
    time: list[list[Floats]] = []
    power: list[list[Floats]] = []
    top = np.empty((len(common), len(tables)))
    for number in range(len(common)):
        rows = [table.join(common[number], on=_ROW).sort("power_limit") for table in tables]
        limits.append([row["power_limit"].cast(pl.Float64).to_numpy() for row in rows])
        epoch = [row["time_per_epoch"].to_numpy() for row in rows]
        top[number] = [one[-1] for one in epoch]
        time.append([one / one[-1] for one in epoch])
        power.append([row["average_power"].to_numpy() for row in rows])
    return Curves(
        names=["/".join(map(str, row)) for row in common.rows()],
        tasks=["/".join(map(str, row[:2])) for row in common.rows()],
        caps_w=[np.sort(table["power_limit"].unique().cast(pl.Float64).to_numpy()) for table in tables],
        limits=limits,
        time=time,
        power_w=power,
        relative=top / top.min(axis=1, keepdims=True),
    )


@dataclass(frozen=True)
class Truth:
    """What a job really does: `work_s` on the fastest class, and the cap curves of its workload.

    Stretches under a cap are logged with the errors of the frozen file, which fall with the root of the ten-minute
    windows; so is the uncapped reference, whose errors (progress and power, in sigmas of one window) stay the same.
    """

    curves: Curves
    work_s: Floats
    workload: Ints
    meters: dict[str, float]
    gpu_gain: float
    seed: int
    free_windows: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    free_error: Floats = field(default_factory=lambda: np.zeros((0, 0, 2)))

    def knowing(self, windows: Floats) -> Truth:
        """The same where earlier logs hold so many uncapped windows, (workloads, classes), as a reference."""
        rng = np.random.default_rng([self.seed, 6])
        return replace(self, free_windows=windows, free_error=rng.normal(0.0, 1.0, (*windows.shape, 2)))

    def run(self, job: int, hardware_class: int, setting: Setting) -> Run:
        """Duration and mean board power; every stretch under a cap is logged with the power and progress it had."""
        workload = int(self.workload[job])
        left = float(self.work_s[job] * self.curves.relative[workload, hardware_class])
        free = self.curves.at(workload, hardware_class, None)
        if setting is None:
            return Run(left * free[0], free[1])
        rng = np.random.default_rng([self.seed, job])
        measured: list[Measured] = []
        lasts = min(left, setting.window_s) if isinstance(setting, Trial) else 0.0
        logged = float(self.free_windows[workload, hardware_class])
        # One reference for all stretches of a job: the earlier logs', or the uncapped start of this one.
        own = np.floor(lasts / _WINDOW_S)
        error = self.free_error[workload, hardware_class] if logged else rng.normal(0.0, 1.0, 2)
        error = error / np.sqrt(max(logged or own, 1.0))
        duration, joule, left = lasts, lasts * free[1], left - lasts
        cap_w: float | None = None
        while left > 1e-9:
            cap_w, longest_s = setting.step(measured) if isinstance(setting, Trial) else (setting, _LOGGED_S)
            time, power = self.curves.at(workload, hardware_class, cap_w)
            lasts = min(left * time, longest_s)
            duration, joule, left = duration + lasts, joule + lasts * power, left - lasts / time
            windows = float(np.floor(lasts / _WINDOW_S + 1e-9))
            if cap_w is not None and windows and (logged or own):
                measured.append(self._sensed(rng, cap_w, free, (time, power), windows, duration, error))
        return Run(duration, joule / duration, tuple(measured), cap_w)

    def _sensed(
        self, rng: np.random.Generator, cap_w: float, free: tuple[float, float], capped: tuple[float, float],
        windows: float, end_s: float, reference_error: Floats,
    ) -> Measured:  # fmt: skip
        noise = rng.normal(0.0, 1.0, 2) / np.sqrt(windows)
        speed = 1.0 + self.meters["progress_noise"] * np.array([reference_error[0], noise[0]])
        power = self.gpu_gain * (1.0 + self.meters["gpu_noise"] * np.array([reference_error[1], noise[1]]))
        ratio = capped[0] / free[0] * speed[0] / speed[1]
        return Measured(
            cap_w, float(free[1] * power[0]), float(capped[1] * power[1]), float(ratio), windows, end_s
        )


@dataclass(frozen=True)
class Site:
    """Nodes with what the engine need not know: rack, inlet offset above supply, K, and power spread (ratio)."""

    nodes: Nodes
    rack: Ints
    inlet_offset_k: Floats
    spread: Floats


def make_site(site: dict[str, Any], rng: np.random.Generator) -> Site:
    """The nodes in inventory order."""
    told = site["nodes"]
    classes = list(told["classes"].values())
    racks = np.repeat(np.arange(len(classes)), told["racks_per_class"])
    rng.shuffle(racks)
    kind = np.repeat(racks, told["nodes_per_rack"])
    rack = np.repeat(np.arange(len(racks)), told["nodes_per_rack"])
    boards = told["gpus_per_node"]
    idle, full, gpu_idle = (
        np.array([float(one[name]) for one in classes])[kind]
        for name in ("host_idle_w", "host_full_w", "gpu_idle_w")
    )
    load = told["wake_host_load_ratio"]
    nodes = Nodes(
        hardware_class=kind,
        gpus=np.full(len(kind), boards),
        base_w=idle,
        busy_w=(full - idle) * told["host_load_per_busy_gpu_ratio"],
        gpu_idle_w=gpu_idle,
        sleep_w=np.full(len(kind), float(told["sleep_w"])),
        wake_w=idle + (full - idle) * load + boards * gpu_idle,
        wake_s=float(told["wake_s"]),
        shut_down_s=float(told["shut_down_s"]),
    )
    offset = rng.uniform(0.0, site["facility"]["rack_offset_max_k"], len(racks))[rack]
    spread = np.exp(rng.normal(0.0, told["node_spread_sigma"], len(kind)))
    return Site(nodes, rack, offset, spread)


def make_jobs(
    site: dict[str, Any], found: Curves, nodes: Nodes, utilisation: float, days: int, start_local: datetime,
    rng: np.random.Generator, gpu_gain: float = 1.0, seed: int = 0,
) -> tuple[Jobs, Truth]:  # fmt: skip
    """Jobs of `days` days whose board time is `utilisation` of the site's, and what they really do."""
    told = site["jobs"]
    wanted = utilisation * float(nodes.gpus.sum()) * days * _DAY_S
    count = int(wanted / 3600.0 / 2) + 1000
    # Bursts share workload, size, class and instant.
    bursts = rng.geometric(1.0 / told["burst_mean_jobs"], count)
    of = np.repeat(np.arange(count), bursts)
    tasks = sorted(set(found.tasks))
    rows = [np.flatnonzero([task == one for one in found.tasks]) for task in tasks]
    workload = np.array([rng.choice(rows[rng.integers(len(tasks))]) for _ in range(count)])[of]
    gpus = rng.choice(told["gpu_counts"], size=count, p=told["gpu_count_shares"])[of]
    kinds = nodes.classes
    named = rng.integers(0, kinds, count)[of]
    free = (rng.random(count) < told["any_class_ratio"])[of]
    allowed = free[:, None] | (np.arange(kinds)[None, :] == named[:, None])
    hours = np.exp(rng.normal(np.log(told["runtime_median_h"]), told["runtime_sigma"], len(of)))
    work_s = 3600.0 * np.clip(hours, told["runtime_min_h"], told["runtime_max_h"])
    relative = found.relative[workload]
    mean_s = work_s * np.where(allowed, relative, 0.0).sum(axis=1) / allowed.sum(axis=1)
    keep = int(np.searchsorted(np.cumsum(mean_s * gpus), wanted)) + 1
    asked_h = work_s * np.where(allowed, relative, 0.0).max(axis=1) / 3600.0
    asked_h = asked_h / rng.uniform(told["used_of_requested_low"], told["used_of_requested_high"], len(of))
    steps = np.array(told["requested_steps_h"], dtype=np.float64)
    requested_s = 3600.0 * steps[np.minimum(np.searchsorted(steps, asked_h), len(steps) - 1)]
    slack_s = 3600.0 * rng.uniform(told["deadline_slack_h"][0], told["deadline_slack_h"][1], len(of))
    with_deadline = rng.random(len(of)) < told["deadline_ratio"]
    submit = _instants(told, int(of[keep - 1]) + 1, days, start_local, rng)[of[:keep]]
    order = np.argsort(submit, kind="stable")

    def cut(values: NDArray[Any]) -> NDArray[Any]:
        return values[:keep][order]

    submit = submit[order]
    jobs = Jobs(
        submit_s=submit,
        gpus=cut(gpus),
        allowed=cut(allowed),
        requested_s=cut(requested_s),
        deadline_s=np.where(cut(with_deadline), submit + cut(requested_s) + cut(slack_s), np.inf),
        workload=cut(workload),
        release_s=submit.copy(),
    )
    return jobs, Truth(found, cut(work_s), jobs.workload, site["meters"], gpu_gain, seed)


def _instants(
    told: dict[str, Any], count: int, days: int, start_local: datetime, rng: np.random.Generator
) -> Floats:
    """Instants of bursts, s: a Poisson process with a day and a week, given its number."""
    minute = np.arange(days * 1440)
    at = start_local.hour + start_local.minute / 60.0 + minute / 60.0
    weekday = (start_local.weekday() + (at // 24).astype(np.int64)) % 7
    rate = 1.0 + told["day_amplitude"] * np.cos(2 * np.pi * (at - told["peak_local_hour"]) / 24.0)
    rate = np.where(weekday >= 5, told["weekend_rate_ratio"], 1.0) * rate
    drawn = rng.choice(minute, size=count, p=rate / rate.sum()) * 60.0 + rng.uniform(0, 60.0, count)
    return np.asarray(np.round(drawn), dtype=np.float64)


@dataclass(frozen=True)
class Outdoors:
    """Hours of one zone, UTC: dry and wet bulb, degC, direct average intensity, g/kWh, price a kWh, local hour."""

    zone: str
    first: datetime
    utc_offset_h: float
    dry_bulb_c: Floats
    wet_bulb_c: Floats
    intensity: Floats
    price: Floats


def outdoors(data: Path, site: dict[str, Any], zone: str) -> Outdoors:
    """A year of one zone; holes of the intensity are carried forward."""
    told = site["weather_and_grid"]
    with gzip.open(data / told["weather"] / f"{zone}_2023.json.gz", "rt", encoding="utf-8") as file:
        weather = json.load(file)
    offset_h = weather["utc_offset_seconds"] / 3600.0
    hourly = weather["hourly"]
    dry = np.array(hourly["temperature_2m"], dtype=np.float64)
    wet = wet_bulb_c(dry, np.array(hourly["relative_humidity_2m"], dtype=np.float64))
    rows = pl.read_csv(data / told["intensity"] / f"{zone}_2023_hourly.csv.gz", infer_schema=False)
    direct = next(name for name in rows.columns if name.endswith("(direct)"))
    intensity = rows[direct].cast(pl.Float64, strict=False).forward_fill().backward_fill().to_numpy()
    first = datetime(2023, 1, 1, tzinfo=UTC) - timedelta(hours=offset_h)
    shift = round(-offset_h)  # the weather's first row in hours of the grid's year
    count = len(intensity) - abs(shift)
    intensity, dry, wet = (
        (intensity[shift:], dry[:count], wet[:count])
        if shift > 0
        else (intensity[:count], dry[-shift:][:count], wet[-shift:][:count])
    )  # fmt: skip
    first = first if shift > 0 else datetime(2023, 1, 1, tzinfo=UTC)
    rates = told["price_per_kwh"]
    local = (first.hour + np.arange(count) + offset_h) % 24
    day = (local >= rates["day_from_hour"]) & (local < rates["day_to_hour"])
    price = np.where(day, rates["day"], rates["night"])
    return Outdoors(zone, first, offset_h, dry, wet, intensity, price)


def wet_bulb_c(dry_c: Floats, humidity_percent: Floats) -> Floats:
    """Wet bulb at sea level, degC. Source: Stull, J. Appl. Meteor. Climatol. 50 (2011), eq. 1."""
    rh = np.clip(humidity_percent, 5.0, 99.0)
    return np.asarray(
        dry_c * np.arctan(0.151977 * np.sqrt(rh + 8.313659))
        + np.arctan(dry_c + rh)
        - np.arctan(rh - 1.676331)
        + 0.00391838 * rh**1.5 * np.arctan(0.023101 * rh)
        - 4.686035
    )


def spec_medians(data: Path, years: Sequence[int], chips: int) -> tuple[float, float, int]:
    """Median active idle and full power, W, of SPECpower results of these years, and how many they are."""
    rows = pl.read_csv(data / "ccf-coefficients" / "SPECpower-2026-03-09.csv.gz")
    year = pl.col("Published").str.slice(-4).cast(pl.Int32)
    some = rows.filter((pl.col("Chips") == chips) & year.is_between(years[0], years[1]))
    idle, full = some["avg. watts @ active idle"].median(), some["avg. watts @ 100%"].median()
    assert isinstance(idle, float) and isinstance(full, float)
    return idle, full, len(some)
