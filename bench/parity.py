"""How far do errors of groups lie apart by chance, and how far on real machines? Holds the gate's limit against both.

    python -m bench.parity [--data FOLDER] [--inventory FILE] [--every 12]

The product's own models of real servers predict the months after each training, whatever the gate says. Chance: the
days of one server's month are dealt at random into two groups, which no model treats differently. Machines: servers of
one class, and classes. Each pair is judged by the gate's own rule.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl

from bench.inputs import REAL
from bench.measure import Figure, figure, print_figures, write
from bench.models import SETTINGS, device_hours_of, known_hours, stored_model
from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.features import TARGET
from lepton_etl.models.metrics import MIN_DAYS
from lepton_etl.models.parity import Gap, gaps
from pipelines.engine import InlineEngine
from pipelines.train import TrainingTable, learn

_DEALS: Final = 10
_SEED: Final = 20250603
FALSE_ALARMS_PCT: Final = 1.0


def main() -> None:
    """Print what was measured, write var/bench/parity.json; exit 1 where chance alone is refused too often."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path, default=REAL / "biohpc-gpu-servers", help="folder of exports")
    options.add_argument("--inventory", type=Path, default=SETTINGS.with_name("biohpc-inventory.csv"))
    options.add_argument("--every", type=int, default=12, help="months from one training to the next")
    asked = options.parse_args()
    every, settings = device_hours_of(asked.data, asked.inventory, SETTINGS)
    seen: dict[str, list[Gap]] = defaultdict(list)
    rng = np.random.default_rng(_SEED)
    firsts = (
        every.select(pl.col("hour_start").dt.month_start().dt.date().unique().sort()).to_series().to_list()
    )
    for number in range(asked.every, len(firsts), asked.every):
        rows = predicted(every, settings, firsts[number : number + asked.every])
        for _, month in rows.group_by(pl.col("hour_start").dt.month_start(), maintain_order=True):
            judge(month, rng, seen)
    limit = settings.gates.parity_max_ratio
    found = [one for kind, pairs in seen.items() for one in figures(kind, pairs, limit)]
    print_figures("how far apart", found)
    print(f"{len(found)} figures in {write('parity', found)}")
    sys.exit(any(one.ok is False for one in found))


def predicted(every: pl.DataFrame, settings: ModelSettings, months: Sequence[date]) -> pl.DataFrame:
    """Return the hours of these months with energy, and what the model of the time before them says of it."""
    table = TrainingTable.of(known_hours(every, months[0], settings), settings)
    model = stored_model(learn(table, settings, InlineEngine(), None), 1, settings)
    rows = every.filter(
        pl.col("hour_start").dt.month_start().dt.date().is_in(months), pl.col(TARGET).is_not_null()
    ).with_columns(pl.col("hour_start").dt.date().alias("date"))
    kwh = model.predict(rows.select(model.feature_names).to_pandas())
    return rows.with_columns(pl.Series("predicted_kwh", kwh))


def judge(month: pl.DataFrame, rng: np.random.Generator, seen: dict[str, list[Gap]]) -> None:
    """Add the gaps of a month's pairs: halves of a server's days, servers of a class, classes."""
    for _, server in month.group_by("node_id", maintain_order=True):
        days = server["date"].unique().sort().to_numpy()
        if len(days) < 2 * MIN_DAYS:
            continue
        for _ in range(_DEALS):
            half = rng.permutation(days)[: len(days) // 2]
            seen["chance"] += _gap(server, np.where(np.isin(server["date"].to_numpy(), half), "one", "other"))
    for _, of_class in month.group_by("hardware_class", maintain_order=True):
        for pair in combinations(of_class["node_id"].unique().sort(), 2):
            both = of_class.filter(pl.col("node_id").is_in(pair))
            seen["servers of a class"] += _gap(both, both["node_id"].to_numpy())
    for pair in combinations(month["hardware_class"].unique().sort(), 2):
        both = month.filter(pl.col("hardware_class").is_in(pair))
        seen["classes"] += _gap(both, both["hardware_class"].to_numpy())


def _gap(rows: pl.DataFrame, label: npt.NDArray[Any]) -> list[Gap]:
    hours = pd.DataFrame({"hardware_class": label.astype(object), "date": rows["date"].to_numpy()})
    return gaps(hours, rows[TARGET].to_numpy(), rows["predicted_kwh"].to_numpy(), MIN_DAYS)


def figures(kind: str, pairs: list[Gap], limit: float) -> list[Figure]:
    """Return quantiles of the gaps in points of CV(RMSE), whole and beyond chance, and how many the gate refuses."""
    whole = 100 * np.array([one.worst_ratio - one.best_ratio for one in pairs])
    beyond = 100 * np.array([one.beyond_chance_ratio for one in pairs])
    found = [
        figure(f"{kind}/{name}_q{quantile:g}", float(np.quantile(values, quantile)), "points", len(pairs))
        for name, values in (("gap", whole), ("beyond_chance", beyond))
        for quantile in (0.5, 0.95, 0.99, 1.0)
    ]
    for one in sorted({0.0, 0.05, 0.10, 0.15, 0.20, 0.30} | {limit}):
        at_most = FALSE_ALARMS_PCT if kind == "chance" and one == limit else None
        share = 100 * float((beyond > 100 * one).mean())
        found.append(figure(f"{kind}/refused_at_{one:g}", share, "%", len(pairs), at_most))
    return found


if __name__ == "__main__":
    main()
