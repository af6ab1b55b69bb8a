"""Kepler counters, CPU load profiles and SPECpower servers, each against its plain baseline, never shuffled."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression
from threadpoolctl import threadpool_limits

from bench.measure import Figure, figure, print_figures
from bench.model_forward import published
from bench.model_inputs import KEPLER_COUNTERS, kepler_intervals, load_profiles, spec_results
from lepton_etl.models.candidates import CANDIDATES, Inputs
from lepton_etl.models.features import TARGET
from lepton_etl.models.fusion import forward_block
from lepton_etl.models.metrics import Values, errors

_KEPLER: Final = ("linear", "piecewise_linear", "forest", "extra_trees", "boosting_gentle")
_KEPLER_FIRST: Final = 4
_SPEC_FIRST_YEAR: Final = 2012
_MEAN: Final = "mean_of_past"


def public_figures(folder: Path) -> list[Figure]:
    """Figures of the three data sets; each row names how its rows were left out."""
    with threadpool_limits(1):
        found = [
            *kepler_figures(folder / "kepler-node-power"),
            *profile_figures(folder / "codecarbon-load-profiles"),
            *spec_figures(folder / "ccf-coefficients"),
        ]
    print_figures("other public data, forward or left out", found)
    return found


def kepler_figures(folder: Path) -> list[Figure]:
    """Counters -> platform power of one node, ten minutes ahead of all history."""
    rows = kepler_intervals(folder)
    numbers = tuple(n for n in rows.columns if n.startswith(KEPLER_COUNTERS))
    load = tuple(n for n in numbers if n.startswith(("bpf_cpu_time", "cpu_cycles", "cpu_instructions")))
    inputs, block = Inputs(numbers, (), load), rows["block"].to_numpy()
    parts, means = [], []
    for now in np.unique(block)[_KEPLER_FIRST:]:
        parts.append(
            forward_block(rows, block, now, inputs, [CANDIDATES[name] for name in _KEPLER]).predicted
        )
        means.append(pd.Series(rows.loc[block < now, TARGET].mean(), index=parts[-1].index))
    members = pd.concat(parts)
    here = rows.loc[members.index]
    fused, _ = published(here, members)
    every = members.join(fused).assign(**{_MEAN: pd.concat(means)})
    kept = every.dropna().index
    return _rows("kepler/forward_10_min", here.loc[kept, TARGET].to_numpy(), every.loc[kept])


def profile_figures(folder: Path) -> list[Figure]:
    """Load -> CPU power: each profile from the other profile of its CPU, and each CPU from the other CPUs.

    Of an unseen CPU the highest power of the profile stands for its nameplate: the curve is judged, not the scale.
    """
    rows = load_profiles(folder)
    found: list[Figure] = []
    same, unseen = [], []
    for _, group in rows.groupby(["cpu", "load_type"]):
        twin = rows[(rows["cpu"] == group["cpu"].iloc[0]) & (rows["load_type"] != group["load_type"].iloc[0])]
        same.append(_curves(twin, twin["power_w"], group, 1.0))
    for cpu, group in rows.groupby("cpu"):
        others = rows[rows["cpu"] != cpu]
        full = others.groupby("cpu")["power_w"].transform("max")
        unseen.append(_curves(others, others["power_w"] / full, group, float(group["power_w"].max())))
    for name, parts in (("other_profile_of_the_cpu", same), ("leave_one_cpu_out", unseen)):
        table = pd.concat(parts)
        found += _rows(f"profiles/{name}", table.pop("measured").to_numpy(), table)
    return found


def _curves(train: pd.DataFrame, target: pd.Series[float], test: pd.DataFrame, scale: float) -> pd.DataFrame:
    load, ahead = train[["cpu_utilisation_ratio"]].to_numpy(), test[["cpu_utilisation_ratio"]].to_numpy()
    isotonic = IsotonicRegression(out_of_bounds="clip").fit(load[:, 0], target)
    boosted = HistGradientBoostingRegressor(
        max_iter=60, min_samples_leaf=3, monotonic_cst=[1], early_stopping=False, random_state=0
    )
    lower = isotonic.predict(ahead[:, 0])
    return pd.DataFrame(
        {
            "measured": test["power_w"].to_numpy(),
            _MEAN: float(target.mean()) * scale,
            "linear": LinearRegression().fit(load, target).predict(ahead) * scale,
            "monotone_steps": lower * scale,
            "monotone_boosting": boosted.fit(load, target).predict(ahead) * scale,
        }
    )


def spec_figures(folder: Path) -> list[Figure]:
    """Idle power of a server from its full power and inventory row, by year; years before train."""
    rows = spec_results(folder)
    rows["share"] = rows["idle_w"] / rows["full_w"]
    rows["watt_per_core"] = rows["full_w"] / rows["cores"]
    rows["amd"] = (rows["cpu_make"] == "AMD").astype(float)
    names = [
        "full_w", "watt_per_core", "cores", "chips", "clock_mhz", "memory_gib", "threads", "amd", "block",
    ]  # fmt: skip
    parts = []
    for year in sorted(y for y in rows["block"].unique() if y >= _SPEC_FIRST_YEAR):
        before, here = rows[rows["block"] < year], rows[rows["block"] == year]
        # The newest two years stand for the next: idle power fell for a decade and rose again.
        recent = before[before["block"] >= before["block"].max() - 1]
        boosted = HistGradientBoostingRegressor(
            max_iter=60, learning_rate=0.08, max_leaf_nodes=8, early_stopping=False, random_state=0
        )
        weight = np.exp2(-(year - before["block"].to_numpy()) / 2)
        boosted.fit(before[names], before["share"], sample_weight=weight)
        parts.append(
            pd.DataFrame(
                {
                    "measured": here["idle_w"],
                    _MEAN: before["share"].mean() * here["full_w"],
                    "median_share_of_two_years": recent["share"].median() * here["full_w"],
                    "boosting_on_inventory": boosted.predict(here[names]) * here["full_w"],
                }
            )
        )
    table = pd.concat(parts)
    return _rows("specpower/idle_by_year", table.pop("measured").to_numpy(), table)


def _rows(stem: str, measured: Values, predicted: pd.DataFrame) -> list[Figure]:
    found = []
    for name in predicted.columns:
        result = errors(measured, predicted[name].to_numpy())
        assert result.cv_rmse_ratio is not None
        assert result.nmbe_ratio is not None
        assert result.mape_ratio is not None
        found += [
            figure(f"{stem}/{name}/cv_rmse", 100 * result.cv_rmse_ratio, "%", 1),
            figure(f"{stem}/{name}/nmbe", 100 * result.nmbe_ratio, "%", 1),
            figure(f"{stem}/{name}/mape", 100 * result.mape_ratio, "%", 1),
        ]
    return found
