"""The simulated site of `conf/sites`, built from its frozen parameters and the real tables they name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
import yaml
from numpy.typing import NDArray

from bench.replay_cluster import Jobs, Nodes
from bench.savings_truth import Curves, Truth
from lepton_etl.recommend.replay import Floats, Ints

SITE: Final = Path("conf/sites/simulated-gpu-site.yaml")
_DAY_S: Final = 86400.0


def parameters(path: Path = SITE) -> dict[str, Any]:
    """The frozen parameters."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


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
