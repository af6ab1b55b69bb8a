"""Do months without a change claim a saving, does a true 5 % show, is more work counted as a loss?

Run alone: python -m bench.savings_placebo [months]
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.measure import Figure, figure, print_figures, write
from bench.placebo_months import MORE_WORK, NOISY, Month, fleet_months, real_months, simulated_months
from lepton_etl.recommend.baseline import Baseline, Period, fit_baseline
from lepton_etl.recommend.savings import Grade, SavingSettings, grade_saving

MONTHS: Final = 200
TRUE_SAVING: Final = 0.05
FALSE_PCT, POWER_PCT = 5.0, 80.0
SEED: Final = 20_241
SETTINGS: Final = SavingSettings()
# Smaller or noisier sites are printed too: a month may be too short to prove 5 % there, and no target says it is not.
SOURCES: Final[dict[str, tuple[Callable[[int], Iterable[Month]], float | None]]] = {
    "simulated site": (lambda n: simulated_months(n, SEED), POWER_PCT),
    "simulated noisy site": (lambda n: simulated_months(n, SEED, NOISY), None),
    "site of 384 real histories": (lambda n: fleet_months(n, SEED, 384), POWER_PCT),
    "site of 96 real histories": (lambda n: fleet_months(n, SEED, 96), None),
}


def figures(months: int = MONTHS) -> list[Figure]:
    """Real windows first, then the simulated sources; each printed and kept apart."""
    return _real(months) + [one for name in SOURCES for one in simulated(name, months)]


def simulated(name: str, months: int = MONTHS) -> list[Figure]:
    """One of SOURCES; printed too."""
    months_of, power_pct = SOURCES[name]
    made = list(months_of(months))
    fits = [fit_baseline(m.before) for m in made]
    shown = _table(f"{name}, real weather of 2023: {len(made)} months")
    placebo = _graded([(m.before, m.after) for m in made], fits)
    saved = _graded([(m.before, _less(m.after)) for m in made], fits)
    busier = _graded([(m.before, m.busier or m.after) for m in made], fits)
    found = _scored(shown, f"{name}/placebo", placebo, 0.0, false_at_most=FALSE_PCT, loss_at_most=FALSE_PCT)
    found += _scored(shown, f"{name}/true {TRUE_SAVING:.0%}", saved, TRUE_SAVING, proven_at_least=power_pct)
    more = f"{name}/{MORE_WORK - 1:.0%} more work"
    found += _scored(shown, more, busier, 0.0, false_at_most=FALSE_PCT, loss_at_most=FALSE_PCT)
    Console(width=140).print(shown)
    _print_refusals(placebo + busier)
    return found


def _real(months: int) -> list[Figure]:
    made = list(real_months(months))
    fits = [fit_baseline(m.before) for m in made]
    shown = _table(f"real GPU servers, sliding windows: {len(made)} months, neighbours overlap")
    placebo = _graded([(m.before, m.after) for m in made], fits)
    saved = _graded([(m.before, _less(m.after)) for m in made], fits)
    big = _graded([(m.before, _less(m.after, 0.3)) for m in made], fits)
    # Months that happened to do at least 20 % more work a day than their baseline.
    more = [m.after.work.mean() >= MORE_WORK * m.before.work.mean() for m in made]
    busier = [grade for grade, is_more in zip(placebo, more, strict=True) if is_more]
    name = "real GPU servers"
    found = _scored(shown, f"{name}/placebo", placebo, 0.0, false_at_most=FALSE_PCT, loss_at_most=FALSE_PCT)
    found += _scored(shown, f"{name}/true {TRUE_SAVING:.0%}", saved, TRUE_SAVING)
    found += _scored(shown, f"{name}/true 30%", big, 0.3)
    found += _scored(
        shown, f"{name}/at least {MORE_WORK - 1:.0%} more work", busier, 0.0,
        false_at_most=FALSE_PCT, loss_at_most=FALSE_PCT,
    )  # fmt: skip
    Console(width=140).print(shown)
    _print_refusals(placebo)
    return found


def _less(after: Period, saving_ratio: float = TRUE_SAVING) -> Period:
    return replace(after, energy_kwh=after.energy_kwh * (1.0 - saving_ratio))


def _graded(pairs: Sequence[tuple[Period, Period]], fits: Sequence[Baseline | None]) -> list[Grade]:
    return [
        grade_saving(before, after, SETTINGS, fit) for (before, after), fit in zip(pairs, fits, strict=True)
    ]


def _table(title: str) -> Table:
    shown = Table(title=title)
    names = (
        "months",
        "graded %",
        "proven %",
        "loss %",
        "saving, median %",
        "error, median %",
        "G14 +-, median %",
    )
    for column in (*names, "truth inside 90 % interval %"):
        shown.add_column(column, justify="left" if column == "months" else "right")
    return shown


def _scored(
    shown: Table,
    name: str,
    grades: Sequence[Grade],
    truth_ratio: float,
    false_at_most: float | None = None,
    loss_at_most: float | None = None,
    proven_at_least: float | None = None,
) -> list[Figure]:
    """Shares of all months, whether they could be graded or not; the truth is a saving of what would have been used."""
    if not grades:
        return []
    count = len(grades)
    rated = [g for g in grades if g.saving_kwh is not None]
    proven = 100 * sum(g.proven for g in grades) / count
    loss = 100 * sum(g.verdict == "loss" for g in grades) / count
    saving = [(g.saving_kwh.value if g.saving_kwh else 0.0) / (g.expected_kwh or np.nan) for g in rated]
    errors = [abs(s - truth_ratio) for s in saving]
    half = [
        (g.guideline14_fractional_uncertainty or np.nan) * abs(s) for g, s in zip(rated, saving, strict=True)
    ]
    inside = [_holds_truth(g, truth_ratio) for g in rated]
    cells = [100 * float(np.nanmedian(v)) if rated else float("nan") for v in (saving, errors, half)]
    held = 100 * float(np.mean(inside)) if rated else float("nan")
    shown.add_row(
        name.split("/", 1)[1], f"{100 * len(rated) / count:.0f}", f"{proven:.1f}", f"{loss:.1f}",
        *(f"{cell:.2f}" for cell in cells), f"{held:.0f}",
    )  # fmt: skip
    found = [
        figure(f"savings/{name}/graded", 100 * len(rated) / count, "% of months", count),
        figure(
            f"savings/{name}/proven",
            proven,
            "% of months",
            count,
            at_most=false_at_most,
            at_least=proven_at_least,
        ),
        figure(f"savings/{name}/counted as a loss", loss, "% of months", count, at_most=loss_at_most),
    ]
    if rated:
        # Whoever is not graded can claim nothing: the share of the graded is the harder figure.
        of_graded = 100 * sum(g.proven for g in rated) / len(rated)
        found += [
            figure(f"savings/{name}/truth inside 90 %", held, "% of graded", len(rated)),
            figure(
                f"savings/{name}/proven of graded",
                of_graded,
                "% of graded",
                len(rated),
                at_most=false_at_most,
            ),
        ]
    return found


def _holds_truth(grade: Grade, truth_ratio: float) -> bool:
    """Whether the interval holds the true saving: realised energy is (1 - ratio) of what would have been used."""
    assert grade.saving_kwh is not None
    true_kwh = grade.realised_kwh * truth_ratio / (1.0 - truth_ratio)
    return grade.saving_kwh.lower <= true_kwh <= grade.saving_kwh.upper


def _print_refusals(grades: Sequence[Grade]) -> None:
    counts = Counter(grade.verdict for grade in grades if grade.saving_kwh is None)
    for verdict, count in counts.most_common():
        example = next(grade.reason for grade in grades if grade.verdict == verdict)
        print(f"  not graded, {verdict}: {count} of {len(grades)}, e.g. {example}")


def main() -> None:
    found = figures(int(sys.argv[1]) if len(sys.argv) > 1 else MONTHS)
    print_figures("measured savings", found)
    write("savings_placebo", found)


if __name__ == "__main__":
    main()
