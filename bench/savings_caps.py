"""Power caps on real tables of GPUs: each network left out in turn, blind choices and at most three probed caps.

Run alone: python -m bench.savings_caps
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from bench.inputs import REAL
from bench.measure import Figure, figure, print_figures, write
from bench.power_caps_probed import (
    ProbedChoice,
    ProbeSettings,
    Reading,
    Repeatability,
    Run,
    next_probe_w,
    oracle_cap_w,
    oracle_saving_ratio,
    probed_choice,
    repeatability,
)
from lepton_etl.recommend.power_caps import (
    BlindCaps,
    CapChoice,
    CapCurve,
    curves_of,
    learn_blind,
    others,
    refused,
)

SETTINGS: Final = ProbeSettings()
# What the issue says the clairvoyant choice saves, percent.
KNOWN_ORACLES: Final = {"v100": 9.6, "a40": 12.0}
RUNS: Final = {
    "20 epochs": Run(20.0),
    "50 epochs": Run(50.0),
    "100 epochs": Run(100.0),
    "100 epochs, probes' work lost": Run(100.0, probe_lost=True),
    "1,000 epochs, probes' work lost": Run(1000.0, probe_lost=True),
}
STATED_RUN: Final = "100 epochs"
CAPTURE_PCT, VIOLATIONS_PCT = 75.0, 3.0
# Probes that read time and energy with this error (1 sigma, each): how the choice bears a sensor.
PROBE_ERROR_RATIO: Final = 0.01
ERROR_DRAWS: Final = 50
ALLOWING: Final = ProbeSettings(probe_time_error_ratio=PROBE_ERROR_RATIO)


def table_of(path: Path) -> pd.DataFrame:
    """A table of the public form as logged runs: whatever is not cap, time or power names the workload."""
    read = pd.read_csv(path)
    named = [c for c in read.columns if c not in ("power_limit", "time_per_epoch", "average_power")]
    return pd.DataFrame(
        {
            "hardware_class": path.stem.rsplit("_", 1)[-1],
            "network_id": read["network"].astype(str),
            "workload_id": read[named].astype(str).agg("/".join, axis=1),
            "power_limit_w": read["power_limit"],
            "time_per_work_s": read["time_per_epoch"],
            "power_w": read["average_power"],
        }
    )


def figures(folder: Path = REAL / "zeus-gpu-power-limits") -> list[Figure]:
    """Every `summary_power_*.csv` of the folder."""
    found: list[Figure] = []
    for path in sorted(folder.glob("summary_power_*.csv")):
        made = curves_of(table_of(path))
        print(f"{path.stem}: {len(made)} workloads")
        if made:
            found += gpu_figures(made)
    if not found:
        raise SystemExit(f"bench: no summary_power_*.csv in {folder}: set LEPTON_REAL_DATA to the real data")
    return found


def gpu_figures(curves: Sequence[CapCurve]) -> list[Figure]:
    """Oracle, blind and probed choices of one hardware class; prints a table."""
    gpu = curves[0].hardware_class
    limit = SETTINGS.slowdown_max_ratio
    oracle = oracle_saving_ratio(curves, limit)
    known = KNOWN_ORACLES.get(gpu)
    bounds = {} if known is None else {"at_least": known - 0.05, "at_most": known + 0.05}
    found = [figure(f"caps/{gpu}/oracle saving", 100 * oracle, "%", 1, **bounds)]

    title = f"{gpu}: {len(curves)} workloads, slowdown at most {limit:.0%}, oracle saves {oracle:.1%}"
    shown = Table(title=title)
    for column in (
        "choice",
        "capped",
        "saving %",
        "capture %",
        "binding capture %",
        "violations %",
        "worst slowdown %",
    ):
        shown.add_column(column, justify="left" if column == "choice" else "right")

    learned = {n: learn_blind(others(curves, n), SETTINGS) for n in {c.network_id for c in curves}}
    blind = [_blind(curve, learned[curve.network_id]) for curve in curves]
    found += _scored(
        shown, f"caps/{gpu}/blind", curves, [_replayed(c, b) for c, b in zip(curves, blind, strict=True)]
    )
    found += _coverage(gpu, curves, blind)
    widths = {n: repeatability(others(curves, n), SETTINGS) for n in learned}
    for name, run in RUNS.items():
        probed = [_probed(curve, run, widths[curve.network_id]) for curve in curves]
        outcome = [(c.run_saving_ratio or 0.0, _worst(c), c.power_limit_w is not None) for c in probed]
        stated = name == STATED_RUN
        found += _scored(
            shown, f"caps/{gpu}/3 probes, {name}", curves, outcome, CAPTURE_PCT if stated else None, stated
        )
    for name, settings in (("", SETTINGS), (" allowed for", ALLOWING)):
        label = f"caps/{gpu}/3 probes, steady, {PROBE_ERROR_RATIO:.0%} error{name}"
        found += _scored(
            shown, label, list(curves) * ERROR_DRAWS, _with_probe_error(curves, settings), None, False
        )
    Console(width=130).print(shown)
    refusals = Counter(choice.reason for choice in blind if choice.reason)
    for reason, count in refusals.most_common():
        print(f"  no blind cap for {count}: {reason}")
    return found


def _blind(curve: CapCurve, learned: BlindCaps | str) -> CapChoice:
    """Learned from other networks' rows; of this one only its mean power under the default limit, and which caps the
    table can tell the outcome of.
    """
    if isinstance(learned, str):
        return refused(curve.default_limit_w, learned)
    return learned.choose(curve.default_power_w, curve.power_limit_w[:-1].tolist())


def _replayed(curve: CapCurve, choice: CapChoice) -> tuple[float, float, bool]:
    """True saving, true slowdown and whether a cap was set."""
    if choice.power_limit_w is None:
        return 0.0, 0.0, False
    at = curve.at(choice.power_limit_w)
    return float(curve.saving_ratio[at]), float(curve.slowdown_ratio[at]), True


def reading(curve: CapCurve, cap_w: float) -> Reading:
    at = curve.at(cap_w)
    return Reading(cap_w, float(curve.time_per_work_s[at]), float(curve.energy_per_work_j[at]))


def _probed(
    curve: CapCurve,
    run: Run,
    width: Repeatability | None = None,
    settings: ProbeSettings = SETTINGS,
    errors: np.random.Generator | None = None,
) -> ProbedChoice:
    default = reading(curve, curve.default_limit_w)
    probes: list[Reading] = []
    while (cap_w := next_probe_w(curve.power_limit_w[:-1].tolist(), default, probes, settings)) is not None:
        probe = reading(curve, cap_w)
        if errors is not None:
            time, energy = 1.0 + PROBE_ERROR_RATIO * errors.standard_normal(2)
            probe = replace(
                probe, time_per_work_s=probe.time_per_work_s * time,
                energy_per_work_j=probe.energy_per_work_j * energy,
            )  # fmt: skip
        probes.append(probe)
    return probed_choice(default, probes, run, settings, width)


def _worst(choice: ProbedChoice) -> float:
    """The larger of the steady slowdown and that of the whole run with its probes."""
    steady = choice.slowdown_ratio.value if choice.slowdown_ratio else 0.0
    return max(steady, choice.run_slowdown_ratio or 0.0)


def _with_probe_error(curves: Sequence[CapCurve], settings: ProbeSettings) -> list[tuple[float, float, bool]]:
    """True outcomes of choices made from erring probes; the table is the truth. Steady, probes not charged."""
    errors = np.random.default_rng(7)
    return [
        _replayed(curve, _probed(curve, RUNS[STATED_RUN], settings=settings, errors=errors))
        for _ in range(ERROR_DRAWS)
        for curve in curves
    ]


def _scored(
    shown: Table,
    name: str,
    curves: Sequence[CapCurve],
    outcomes: Sequence[tuple[float, float, bool]],
    capture_pct: float | None = None,
    targeted: bool = True,
) -> list[Figure]:
    limit = SETTINGS.slowdown_max_ratio
    saving = np.array([o[0] for o in outcomes])
    slowdown = np.array([o[1] for o in outcomes])
    best = np.array([c.saving_ratio[c.at(oracle_cap_w(c, limit))] for c in curves])
    # Where the mean power lies below half the limit, caps hardly bind and what differs is mostly run to run.
    binding = np.array([c.demand_ratio >= 0.5 for c in curves])
    violations = 100 * float((slowdown > limit).mean())
    capture = 100 * float(saving.mean() / best.mean())
    bound = 100 * float(saving[binding].sum() / best[binding].sum()) if binding.any() else float("nan")
    shown.add_row(
        name.split("/", 2)[2], f"{100 * np.mean([o[2] for o in outcomes]):.0f} %", f"{100 * saving.mean():.2f}",
        f"{capture:.1f}", f"{bound:.1f}", f"{violations:.2f}", f"{100 * slowdown.max():.1f}",
    )  # fmt: skip
    return [
        figure(f"{name}/capture", capture, "% of oracle", 1, at_least=capture_pct),
        figure(
            f"{name}/violations",
            violations,
            "% of workloads",
            1,
            at_most=VIOLATIONS_PCT if targeted else None,
        ),
    ]


def _coverage(gpu: str, curves: Sequence[CapCurve], choices: Sequence[CapChoice]) -> list[Figure]:
    """How many true savings and slowdowns of blind caps lay within their 90 % interval."""
    inside: dict[str, list[bool]] = {"saving": [], "slowdown": []}
    for curve, choice in zip(curves, choices, strict=True):
        if choice.power_limit_w is None:
            continue
        at = curve.at(choice.power_limit_w)
        for name, said, true in (
            ("saving", choice.saving_ratio, curve.saving_ratio[at]),
            ("slowdown", choice.slowdown_ratio, curve.slowdown_ratio[at]),
        ):
            assert said is not None
            inside[name].append(said.lower <= true <= said.upper)
    return [
        figure(
            f"caps/{gpu}/blind/{name} inside its 90 % interval", 100 * float(np.mean(hits)), "%", len(hits)
        )
        for name, hits in inside.items()
        if hits
    ]


def main() -> None:
    found = figures()
    print_figures("power caps, network left out", found)
    write("savings_caps", found)


if __name__ == "__main__":
    main()
