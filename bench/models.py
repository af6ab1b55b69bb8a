"""Do the models hold in months and on machines they have not seen? Real servers, forward in time or left out.

    python -m bench.models [--first 3] [--report 6]

BioHPC servers by month (train on the past, predict the next), then with the nightly recalibration (know up to D-1,
predict D), then each server from the others alone; what each option against overfitting does, and what pooling, a
model a class and smaller models bring and cost; and, against plain baselines, Kepler counters, CPU load profiles and
SPECpower servers. Months `--first` to `--report` validate the fusion and are not reported; all later months are.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from bench.device_memory import memory_features
from bench.inputs import REAL
from bench.measure import Figure, figure, print_figures, write
from bench.model_forward import PUBLISHED, Predicted, forward, nightly
from bench.model_inputs import BASE, INVENTORY, MEMORY, biohpc_hours, month_name
from bench.model_left_out import left_out
from bench.model_options import option_figures
from bench.model_public import public_figures
from bench.model_sizes import size_figures
from lepton_etl.models.candidates import CANDIDATES, inputs_of
from lepton_etl.models.features import TARGET, Feature, refuse_power_features
from lepton_etl.models.metrics import Errors, errors, is_busy

FIGURES: Final = {
    "mape": "mape_ratio", "median_ape": "median_ape_ratio", "wape": "wape_ratio", "cv_rmse": "cv_rmse_ratio",
    "nmbe": "nmbe_ratio",
}  # fmt: skip
BUSY_RATIO: Final = 0.10
NMBE_PCT: Final = 1.5
# Targets of CV(RMSE), percent, for what is published: by month and nightly. The two A40 servers carry 14 and 15 %,
# the one that is harder for boosting on plain features the 15 (cbsugpu06 in months after the first six).
TARGETS: Final = {
    "cbsugpu05": (14.0, 11.0), "cbsugpu06": (15.0, 11.0), "cbsugpu08": (6.5, 5.5),
}  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--first", type=int, default=3, help="months of history before the first forward month"
    )
    options.add_argument(
        "--report", type=int, default=6, help="months of a server before the first reported one"
    )
    options.add_argument("--skip", nargs="*", default=(), choices=("options", "public", "left_out"))
    options.add_argument("--classes", nargs="*", help="only these hardware classes of the servers by month")
    chosen = options.parse_args()
    started = time.perf_counter()
    refuse_power_features(
        [Feature(name, "", "", (name,)) for name in BASE] + list(memory_features(list(BASE)))
    )
    hours = biohpc_hours(REAL / "biohpc-gpu-servers", INVENTORY)
    found: list[Figure] = []
    for hardware_class, rows in hours.groupby("hardware_class"):
        if chosen.classes and hardware_class not in chosen.classes:
            continue
        print(f"forward: {hardware_class}, {len(rows):,} hours", file=sys.stderr, flush=True)
        inputs = inputs_of([*BASE, *MEMORY], rows)
        monthly = forward(rows, inputs, list(CANDIDATES), chosen.first)
        found += report("month", monthly, hours, chosen.report, 0)
        found += [
            figure(f"training/{hardware_class}/{name}/cpu", cpu_s, "s a month", 1)
            for name, cpu_s in monthly.cpu_s.items()
        ]
        print_choices(str(hardware_class), monthly)
        recalibrated, settings = nightly(monthly)
        found += report("nightly", recalibrated, hours, chosen.report, 1)
        latest = settings[max(settings)]
        print(f"recalibration chosen last, {hardware_class}: {latest}")
        print_choices(f"{hardware_class} nightly", recalibrated)
    if "left_out" not in chosen.skip:
        found += left_out(hours)
    if "options" not in chosen.skip:
        found += option_figures(hours)
        found += size_figures(hours)
    if "public" not in chosen.skip:
        found += public_figures(REAL)
    print_figures("targets", [one for one in found if one.target])
    missed = [one.name for one in found if one.ok is False]
    print(f"{len(found)} figures in {write('models', found)}, {time.perf_counter() - started:.0f} s")
    print(f"not reached: {', '.join(missed) or 'none'}")


def report(kind: str, predicted: Predicted, hours: pd.DataFrame, months: int, target: int) -> list[Figure]:
    """Figures of each server of the class after its first `months`, on all and on busy hours; printed too."""
    found: list[Figure] = []
    for node, rows in predicted.rows.groupby("node_id"):
        own = np.unique(hours.loc[hours["node_id"] == node, "block"])
        rows = rows[rows["block"] >= own[months]]
        members = predicted.members.loc[rows.index]
        title = f"{kind}: {node}, {month_name(own[months])} to {month_name(own[-1])}, {len(rows):,} hours"
        table = _table(title)
        for name in members.columns:
            kept = members[name].notna().to_numpy()
            for scope, mask in (("all", kept), ("busy", kept & is_busy(rows, BUSY_RATIO))):
                result = errors(rows[TARGET].to_numpy()[mask], members[name].to_numpy()[mask])
                _add(table, name, scope, result)
                limit = TARGETS.get(str(node)) if (name, scope) == (PUBLISHED, "all") else None
                found += _figures(f"{kind}/{node}/{scope}/{name}", result, limit and limit[target])
        Console(width=110).print(table)
    return found


def _table(title: str) -> Table:
    table = Table(title=title)
    for column in ("model", "hours", "MAPE %", "median APE %", "WAPE %", "CV(RMSE) %", "NMBE %"):
        table.add_column(column, justify="left" if column in ("model", "hours") else "right")
    return table


def _add(table: Table, name: str, scope: str, result: Errors) -> None:
    values = (getattr(result, attribute) for attribute in FIGURES.values())
    table.add_row(name, scope, *("-" if v is None else f"{100 * v:.2f}" for v in values))


def _figures(name: str, result: Errors, cv_limit: float | None) -> list[Figure]:
    found = []
    for short, attribute in FIGURES.items():
        value = getattr(result, attribute)
        if value is None:
            continue
        bounds: dict[str, float] = {}
        if cv_limit is not None and short == "cv_rmse":
            bounds = {"at_most": cv_limit}
        if cv_limit is not None and short == "nmbe":
            bounds = {"at_most": NMBE_PCT, "at_least": -NMBE_PCT}
        found.append(figure(f"{name}/{short}", 100 * value, "%", 1, **bounds))
    return found


def print_choices(title: str, predicted: Predicted) -> None:
    """What the validation chose, month by month: the fusion with its weights, or the champion."""
    print(f"chosen, {title} (fusion only where it beat its best member on the months before):")
    for block, choice in predicted.choices.items():
        shares = ", ".join(f"{name} {share:.2f}" for name, share in choice.weights.items())
        print(f"  {month_name(block)} {choice.name}: {shares}")


if __name__ == "__main__":
    main()
