"""Meters that are wrong, on simulated sites: how many days show it, which is named, how often a clean day is blamed.

    python -m bench.meter_faults [--rounds 3] [--seed 2025]

Hours of sites with class-0.5 and class-1 meters, with all meters of the power train and without some of them, go
through the functions that gold runs. The losses follow other equations than the ledger's: the transformer by a power of
load and weather, UPS modules that switch on and off, distribution with a power of its own. A meter's gain is anywhere
within its class for good, and wanders a little by the day and by the hour.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.measure import Figure, figure, print_figures, write
from lepton_etl.config.sections import LedgerSettings, Transformer
from lepton_etl.facility.fit import StageLoss
from lepton_etl.facility.modelled_meters import (
    STAGES,
    default_stages,
    fitted_stages,
    modelled_stages,
    nameplate_losses,
    stage_sums,
    usual_loads,
)
from lepton_etl.ledger.accounts import (
    IT_HOURS,
    METERS,
    meter_errors,
    modelled_hours,
    site_accounts,
)
from lepton_etl.ledger.balance import findings, ledger_rows, node_hours
from lepton_etl.ledger.reconcile import Checks, check_meters

Floats = NDArray[np.float64]

FIRST: Final = datetime(2025, 6, 1, tzinfo=UTC)
# Curves are fitted on these days; the days that are judged follow.
FIT_DAYS: Final = 20
SITE: Final = "s"
NODES_SIGMA: Final = 0.03
# Meters tell whole watt-hours.
ROUNDING_KWH: Final = 0.0005
# Loss of the transformer at no load, and added at full load, over its rating, as its plate says.
PLATE: Final = (0.0025, 0.011)
ALL: Final = "all meters"
# Reading, what it serves, class over the site's class.
POINTS: Final = {
    "utility": ("utility", "site", 1.0), "lv": ("transformer_out", "site", 1.0), "ups-in": ("ups_in", "it", 1.0),
    "ups-out": ("ups_out", "it", 1.0), "pdu-a": ("pdu_out", "it", 1.0), "pdu-b": ("pdu_out", "it", 1.0),
    "pdu-net": ("pdu_out", "network", 1.0), "pdu-sto": ("pdu_out", "storage", 1.0), "chiller": ("chiller", "site", 2.0),
    "crah": ("crah", "site", 2.0), "pump": ("pump", "site", 2.0), "house": ("other", "management", 2.0),
}  # fmt: skip
PDU: Final = ("pdu-a", "pdu-b", "pdu-net", "pdu-sto")
COOLING: Final = ("chiller", "crah", "pump")
# Meters that a site may lack, as occurs in practice.
WITHOUT: Final = {
    ALL: (), "no transformer output": ("lv",), "no UPS input": ("ups-in",), "no UPS output": ("ups-out",),
    "no PDU": PDU, "no UPS": ("ups-in", "ups-out"), "utility, PDU, cooling": ("lv", "ups-in", "ups-out"),
    "no cooling": COOLING, "no management": ("house",),
    "utility and PDU": ("lv", "ups-in", "ups-out", *COOLING, "house"),
    "utility alone": ("lv", "ups-in", "ups-out", *PDU, *COOLING, "house"),
}  # fmt: skip
# What the ledger must say of sites whose balance nothing checks.
UNVERIFIED: Final = {
    "no cooling": "not known: cooling", "no management": "not known: management",
    "utility and PDU": "a meter of transformer_out would", "utility alone": "a meter of transformer_out would",
}  # fmt: skip
CURVES: Final = ("fitted", "nameplate", "class default")
FACTORS: Final = {
    "5 % high": 1.05, "5 % low": 0.95, "20 % high": 1.2, "20 % low": 0.8, "doubled": 2.0, "halved": 0.5,
}  # fmt: skip
FAULTS: Final = (*FACTORS, "stuck", "an hour late", "swapped")
# The meters that are made wrong, the large ones, and with which meter behind it one is swapped. Two feeds of one sum
# (chillers, or racks) can be swapped and no balance moves: that is no fault of the energy.
NEIGHBOURS: Final = {
    "utility": "lv", "lv": "ups-in", "ups-in": "ups-out", "ups-out": "pdu-a",
}  # fmt: skip
FAULTY: Final = (*NEIGHBOURS, "pdu-a", "pdu-b", "chiller")
TRAIN: Final = ("utility", "lv", "ups-in", "ups-out", "pdu-a", "pdu-b")
# Held by two balances, and no other meter by the same two.
ALONE: Final = ("lv", "ups-in", "ups-out")
SEEN_SIGMAS: Final = 4.0


@dataclass(frozen=True)
class Site:
    """True hours of a site (hours,), kWh, by meter, what the nodes draw, and the transformer's rating."""

    flows: Mapping[str, Floats]
    nodes: Floats
    rating_kwh: float


def site(rng: np.random.Generator, days: int) -> Site:
    """A site of 100 kW to 2 MW of IT with losses, cooling and loads of its own."""
    hours = np.arange(24 * days)
    size, swing = rng.uniform(100, 2000), rng.uniform(0.03, 0.35)
    walk = np.convolve(rng.normal(0, 1, len(hours) + 11), np.ones(12) / 12**0.5, "valid")
    load = 0.6 * (1 + swing * np.sin(2 * np.pi * (hours % 24 - rng.uniform(0, 24)) / 24)) + 0.05 * walk
    compute = size * np.clip(load, 0.15, 0.95)
    wet_bulb = 14 + 5 * np.sin(2 * np.pi * (hours % 24 - 9) / 24) + np.repeat(rng.normal(0, 2, days), 24)
    network, storage = size * (0.02 + 0.01 * load), np.full(len(hours), 0.03 * size)
    share = 0.5 + 0.1 * rng.uniform(-1, 1) + 0.02 * np.sin(hours / 7)
    it = compute + network + storage
    pdu_loss = size * (0.003 + rng.uniform(0.006, 0.014) * (it / size) ** 1.7)
    ups_out = it + pdu_loss
    modules = np.ceil(ups_out / (size * 0.25) + 0.3)
    each = ups_out / modules / (size * 0.25)
    ups_loss = modules * size * 0.25 * (0.012 + 0.018 * each + rng.uniform(0.01, 0.03) * each**2.5)
    ups_in = ups_out + ups_loss
    chiller = ups_in * (0.12 + 0.008 * np.maximum(wet_bulb - 8, 0)) * rng.uniform(0.7, 1.2)
    crah, pump = 0.05 * size * (0.5 + 0.5 * load) ** 3, np.full(len(hours), 0.015 * size)
    house = 0.02 * size * (1 + 0.3 * ((hours % 24 > 6) & (hours % 24 < 19)))
    lv = ups_in + chiller + crah + pump + house
    rating = 2.0 * size
    loss = rating * (0.0025 + 0.011 * (lv / rating) ** 1.8 * (1 + 0.004 * (wet_bulb - 14)))
    flows = {
        "utility": lv + loss, "lv": lv, "ups-in": ups_in, "ups-out": ups_out, "pdu-a": compute * share,
        "pdu-b": compute * (1 - share), "pdu-net": network, "pdu-sto": storage, "chiller": chiller, "crah": crah,
        "pump": pump, "house": house,
    }  # fmt: skip
    return Site(flows, compute, rating)


def read(rng: np.random.Generator, truth: Site, class_pct: float) -> dict[str, Floats]:
    """What the meters read: gain anywhere within the class, and a tenth of it by the day and by the hour."""
    days = len(truth.nodes) // 24
    found = {}
    for name, value in truth.flows.items():
        limit = class_pct / 100 * POINTS[name][2]
        drift = np.repeat(rng.uniform(-0.1, 0.1, days), 24) + rng.uniform(-0.1, 0.1, len(value))
        found[name] = np.round(value * (1 + limit * (rng.uniform(-0.9, 0.9) + drift)), 3)
    return found


@dataclass(frozen=True)
class Case:
    """A site as it is metered: hours read, what its nodes sense, and the curves that its losses are known by."""

    readings: Mapping[str, Floats]
    nodes: Mapping[str, Floats]
    class_pct: float
    rating_kwh: float
    curves: Mapping[str, StageLoss]
    with_plate: bool

    def frame(self, hours: slice) -> pl.DataFrame:
        """METERS of some hours."""
        count = len(next(iter(self.nodes.values())))
        starts = [FIRST + timedelta(hours=hour) for hour in range(count)[hours]]
        rows = pl.concat(
            pl.DataFrame(
                {
                    "hour_start": starts, "meter_id": name, "point": POINTS[name][0], "serves": POINTS[name][1],
                    "class_pct": self.class_pct * POINTS[name][2], "direction": 1.0 if name == "utility" else None,
                    "energy_kwh": values[hours],
                },
                schema_overrides={"direction": pl.Float64},
            )
            for name, values in self.readings.items()
        )  # fmt: skip
        of_site = rows.with_columns(pl.lit(SITE).alias("site_id"), pl.lit(ROUNDING_KWH).alias("noise_kwh"))
        return meter_errors(of_site).select(list(METERS)).cast(METERS)

    def check(self, hours: slice) -> tuple[Checks, pl.DataFrame, set[str]]:
        """What gold says of the hours: the meters' checks, the ledger's balance rows, and the days it would refuse."""
        meters = self.frame(hours)
        starts = meters.select("hour_start").unique().sort("hour_start")
        columns = {name: values[hours] for name, values in self.nodes.items()}
        sigma = NODES_SIGMA * sum(columns.values(), np.zeros(starts.height))
        given = starts.with_columns(
            pl.lit(SITE).alias("site_id"), pl.lit(value=True).alias("is_known"), pl.Series("sigma_kwh", sigma),
            *(pl.Series(name, values) for name, values in columns.items()),
        )  # fmt: skip
        lacking = [
            pl.lit(None, type_).alias(name) for name, type_ in IT_HOURS.items() if name not in given.columns
        ]
        it_hours = given.with_columns(lacking).select(list(IT_HOURS)).cast(IT_HOURS)
        nodes = given.select("site_id", "hour_start", pl.sum_horizontal(list(columns)).alias("energy_kwh"))
        sums = stage_sums(meters)
        accounts = site_accounts(meters, it_hours, self.losses(sums, nodes))
        sensed = node_hours(accounts, it_hours)
        checks = check_meters(it_hours, meters, sensed, self.losses(usual_loads(sums, sensed), nodes))
        rows = ledger_rows(accounts, checks)
        refused = findings(rows, accounts, checks, LedgerSettings(), has_jobs=True)
        return (
            checks,
            pl.DataFrame(rows).filter(pl.col("side") == "balance"),
            {one.when[:10] for one in refused},
        )

    def losses(self, sums: pl.DataFrame, nodes: pl.DataFrame) -> pl.DataFrame:
        """PART_HOURS of the stages."""
        parts = [modelled_stages(sums, {SITE: self.curves}), default_stages(sums, nodes, tuple(STAGES))]
        if self.with_plate:
            plate = Transformer(
                rated_power_w=1000 * self.rating_kwh, no_load_loss_ratio=PLATE[0], load_loss_ratio=PLATE[1]
            )
            parts = [nameplate_losses(sums, plate), *parts]
        return modelled_hours(parts)


def case(rng: np.random.Generator, class_pct: float, without: tuple[str, ...], curves: str) -> Case:
    """A clean site, FIT_DAYS and the days that are judged; `curves` is one of CURVES."""
    truth = site(rng, FIT_DAYS + 1 + len(FAULTS))
    readings = {name: values for name, values in read(rng, truth, class_pct).items() if name not in without}
    error = 1 + NODES_SIGMA * float(rng.normal())
    nodes = {"idle_kwh": truth.nodes * error}
    if "pdu-net" not in readings:
        # Who has no feed for it counts network and storage by their sensors.
        nodes |= {
            "network_kwh": truth.flows["pdu-net"] * error,
            "storage_kwh": truth.flows["pdu-sto"] * error,
        }
    made = Case(readings, nodes, class_pct, truth.rating_kwh, {}, curves == "nameplate")
    if curves == "class default":
        return made
    sums = stage_sums(made.frame(slice(0, 24 * FIT_DAYS))).sort("hour_start")
    before, behind = (
        {
            part: sums[sides[at]].cast(pl.Float64).fill_null(np.nan).to_numpy()
            for part, sides in STAGES.items()
        }
        for at in (0, 1)
    )
    return replace(made, curves=fitted_stages(before, behind))


def broken(clean: Case, meter: str, fault: str, hours: slice) -> Case | None:
    """The case with a meter wrong over these hours; None where no neighbour can be swapped with it."""
    readings = {name: values.copy() for name, values in clean.readings.items()}
    own = readings[meter]
    if fault in FACTORS:
        own[hours] *= FACTORS[fault]
    elif fault == "stuck":
        own[hours] = own[hours.start - 1]
    elif fault == "an hour late":
        own[hours] = clean.readings[meter][hours.start - 1 : hours.stop - 1]
    else:
        other = NEIGHBOURS.get(meter)
        if other is None or other not in readings:
            return None
        own[hours], readings[other][hours] = clean.readings[other][hours], clean.readings[meter][hours]
    return replace(clean, readings=readings)


@dataclass(frozen=True)
class Trial:
    """One wrong meter on one day: whether it was seen, whom it names, and how far beyond the day's error.

    `sigmas` is the change of the day's sum over the standard deviation that the clean day states for the meter, 0 where
    nothing checks it.
    """

    kind: str
    curves: str
    fault: str
    wrong: frozenset[str]
    meter: str
    seen: bool
    culprits: frozenset[str]
    listed: frozenset[str]
    sigmas: float


@dataclass(frozen=True)
class Outcome:
    """What one site gives: clean days and alarms on them, states of its clean hours with their details, trials."""

    kind: str
    clean_days: int
    alarms: int
    states: frozenset[tuple[str, str | None]]
    trials: tuple[Trial, ...]


def outcome(job: tuple[int, str, str, float]) -> Outcome:
    """One site: its days as they are, and the same days each with one fault of one meter."""
    seed, kind, curves, class_pct = job
    rng = np.random.default_rng(seed)
    clean = case(rng, class_pct, WITHOUT[kind], curves)
    hours = slice(24 * (FIT_DAYS + 1), 24 * (FIT_DAYS + 1 + len(FAULTS)))
    checks, balance, alarms = clean.check(hours)
    stated = _day_rows(checks)
    wrong, faults = clean, []
    for number, fault in enumerate(FAULTS):
        day = slice(hours.start + 24 * number, hours.start + 24 * (number + 1))
        meter = str(rng.choice([name for name in FAULTY if name in clean.readings]))
        made = broken(wrong, meter, fault, day)
        if made is not None:
            wrong = made
            faults.append((fault, meter, day))
    found, _, refused = wrong.check(hours)
    rows = _day_rows(found)
    trials = []
    for fault, meter, day in faults:
        on = (FIRST + timedelta(hours=day.start)).date()
        moved = float((wrong.readings[meter][day] - clean.readings[meter][day]).sum())
        detectable = stated[on][meter]["detectable_ratio"]
        share = abs(moved) / float(clean.readings[meter][day].sum())
        both = {meter, NEIGHBOURS[meter]} if fault == "swapped" else {meter}
        verdicts = {name: row["meter_verdict"] for name, row in rows[on].items()}
        culprits = frozenset(name for name, verdict in verdicts.items() if verdict == "culprit")
        listed = frozenset(name for name, verdict in verdicts.items() if verdict in ("culprit", "candidate"))
        trials.append(
            Trial(kind, curves, fault, frozenset(both), meter, str(on) in refused, culprits, listed,
                  SEEN_SIGMAS * share / detectable if detectable else 0.0)
        )  # fmt: skip
    states = frozenset(balance.select("balance_state", "detail").unique().iter_rows())
    return Outcome(kind, len(FAULTS), len(alarms), states, tuple(trials))


def _day_rows(checks: Checks) -> dict[date, dict[str, dict[str, Any]]]:
    rows: dict[date, dict[str, dict[str, Any]]] = {}
    for row in checks.rows.filter(pl.col("check_period") == "day").iter_rows(named=True):
        rows.setdefault(row["date"], {})[row["meter_id"]] = row
    return rows


def jobs(rounds: int, seed: int) -> Iterator[tuple[int, str, str, float]]:
    """Every kind of site with every kind of curve, classes in turn; those with all meters four times as often."""
    for number in range(rounds):
        for at, kind in enumerate((ALL, ALL, ALL, *WITHOUT)):
            for curves in CURVES:
                site_seed = np.random.SeedSequence([seed, number, at, CURVES.index(curves)]).generate_state(1)
                yield int(site_seed[0]), kind, curves, (0.5, 1.0)[(number + at) % 2]


def share(found: Iterable[bool]) -> float:
    """The share that is true; NaN of none."""
    values = list(found)
    return sum(values) / len(values) if values else float("nan")


def figures(outcomes: list[Outcome]) -> list[Figure]:
    """The table of the benchmark."""
    days, alarms = sum(one.clean_days for one in outcomes), sum(one.alarms for one in outcomes)
    trials = list(chain.from_iterable(one.trials for one in outcomes))
    made = [figure(f"clean site-days called violated, of {days}", alarms / days, "ratio", 1, at_most=0.01)]
    for name, chosen in (("5 %", FAULTS[:2]), ("20 %", FAULTS[2:4]), ("doubled or halved", FAULTS[4:6])):
        known = [
            t for t in trials
            if t.fault in chosen and t.kind == ALL and t.curves != "class default" and t.meter in TRAIN
        ]  # fmt: skip
        made.append(
            figure(f"{name}, a meter of the train, nameplate or fitted losses: seen, of {len(known)}",
                   share(t.seen for t in known), "ratio", 1, at_least=0.9)
        )  # fmt: skip
    for fault in FAULTS:
        of_fault = [t for t in trials if t.fault == fault]
        made.append(
            figure(
                f"{fault}, every kind of site: seen, of {len(of_fault)}",
                share(t.seen for t in of_fault),
                "ratio",
                1,
            )
        )
    far = [t for t in trials if t.sigmas > SEEN_SIGMAS]
    made.append(
        figure(
            f"beyond four sigma of the day: seen, of {len(far)}",
            share(t.seen for t in far),
            "ratio",
            1,
            at_least=0.99,
        )
    )
    alone = [t for t in trials if t.seen and t.kind == ALL and t.meter in ALONE and t.fault != "swapped"]
    made.append(
        figure(f"held by two balances: named alone, of {len(alone)}", share(t.culprits == t.wrong for t in alone),
               "ratio", 1, at_least=0.9)
    )  # fmt: skip
    seen = [t for t in trials if t.seen and t.fault != "swapped"]
    made.append(
        figure(f"every other: among the candidates, of {len(seen)}", share(t.wrong <= t.listed for t in seen), "ratio",
               1, at_least=0.95)
    )  # fmt: skip
    swapped = [t for t in trials if t.seen and t.fault == "swapped"]
    made.append(
        figure(f"swapped: one of the two among the candidates, of {len(swapped)}",
               share(bool(t.wrong & t.listed) for t in swapped), "ratio", 1)
    )  # fmt: skip
    for kind, words in UNVERIFIED.items():
        states = {
            state for one in outcomes if one.kind == kind for state in one.states if state[0] != "violated"
        }
        says = share(state == "unverified" and words in (detail or "") for state, detail in states)
        made.append(figure(f"{kind}: unverified, names {words}", says, "ratio", 1, at_least=1.0))
    return made


def main() -> None:
    """Print one line a figure, and write var/bench/meter_faults.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="sites of each kind and curve")
    parser.add_argument("--seed", type=int, default=2025)
    options = parser.parse_args()
    with ProcessPoolExecutor() as pool:
        outcomes = list(pool.map(outcome, jobs(options.rounds, options.seed)))
    made = figures(outcomes)
    print_figures(f"Wrong meters on {len(outcomes)} simulated sites", made)
    write("meter_faults", made)


if __name__ == "__main__":
    main()
