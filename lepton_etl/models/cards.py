"""Write the model card and the error card: what a stranger must know before relying on a version.

Source: Mitchell et al., Model Cards for Model Reporting, FAT* 2019.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lepton_etl.config.sections import ModelSettings
from lepton_etl.csv_cells import write_csv
from lepton_etl.models.balance import Balance
from lepton_etl.models.classes import KNOWN, OWN, POOLED
from lepton_etl.models.explain import explain
from lepton_etl.models.export_onnx import Exported, export
from lepton_etl.models.features import FEATURES, described
from lepton_etl.models.fit import MODEL, ON_NEWER_HOURS, Trained
from lepton_etl.models.footprint import DEFAULT_CORE_POWER_W, RAPL
from lepton_etl.models.metrics import ALL_HOURS, ALL_NODES, Errors, as_lines, records
from lepton_etl.models.stored import FittedModel

# Rows whose SHAP values stand for all, and rows on which an export is compared.
_EXPLAINED_ROWS = 20
_EXPORT_ROWS = 500
# What whoever wanted a graph does where there is none.
_INSTEAD = (
    "A consumer loads the version with mlflow, scikit-learn and skops alone, `mlflow.pyfunc.load_model`, or asks "
    "`mlflow models serve` by HTTP: both give mean and ends"
)


@dataclass(frozen=True)
class Cards:
    """The files that go beside a version: name -> content, and the graph for consumers without scikit-learn."""

    texts: dict[str, str]
    onnx: Exported


def cards(trained: Trained, settings: ModelSettings, tags: Mapping[str, str]) -> Cards:
    """Return model_card.md, error_card.csv, and the ONNX graph or the reason why there is none."""
    model = FittedModel(trained.mean, described(FEATURES[settings.device]))
    sample = trained.background
    # Spread over the training time; few, because a routed model is asked some hundred times for each.
    spread = sample.iloc[:: max(1, len(sample) // _EXPLAINED_ROWS)].head(_EXPLAINED_ROWS)
    found = explain(model, spread, sample, seed=settings.seed)
    onnx = export(model, sample.head(_EXPORT_ROWS))
    text = "\n".join(
        (
            *_head(trained, settings, tags), *_errors(trained), *_parity(trained, settings), *_rivals(trained),
            *_choice(trained), *_classes(trained),
            *_smaller(trained, onnx, settings.small_model_tolerance_ratio),
            "", f"## What it listens to ({found.method}, mean |part| of an hour, Wh)", "",
            *(f"- {name}: {1000 * value:.2f}" for name, value in found.importance_kwh().items() if value > 0),
            "", *_cost(trained, onnx), *_limits(trained, onnx), "",
        )
    )  # fmt: skip
    return Cards({"model_card.md": text, "error_card.csv": _csv(records(trained.card))}, onnx)


def _head(trained: Trained, settings: ModelSettings, tags: Mapping[str, str]) -> list[str]:
    return [
        f"# {settings.name}: energy of one {settings.device} over one full hour, kWh",
        "",
        f"- Decision: {trained.decision}",
        f"- Taught on {trained.train_rows:,} hours from {trained.train_from:%Y-%m-%d} to {trained.cut_time:%Y-%m-%d}, "
        f"tested on the {trained.test_rows:,} hours after, to {trained.test_until:%Y-%m-%d}, then fitted again on all",
        f"- Code {tags.get('code_version', '-')}, tables {tags.get('delta_versions', '-')}, "
        f"training table SHA-256 {trained.table_sha256[:12]}",
        "- For: filling gaps, expecting a device's energy, seeing what is odd. Not for: billing, hardware "
        "that is not in the inventory, decisions on cooling by die temperature.",
    ]


def _errors(trained: Trained) -> list[str]:
    return ["", "## Errors on hours that it had not seen", "", "```", *as_lines(trained.errors), "```", "",
            "By class, cluster, load and temperature: error_card.csv."]  # fmt: skip


def _parity(trained: Trained, settings: ModelSettings) -> list[str]:
    """Return the errors by group, and what noise of the sensors does to the predictions of each class."""
    return [
        "", "## For whom it errs how much", "",
        f"On the hours that it had not seen, of groups of at least {settings.gates.min_test_rows}; two of one kind may "
        f"lie {settings.gates.parity_max_ratio:.0%} apart beyond chance. "
        "A tenant's hours are those of nodes that it held alone.",
        "", "| of | group | hours | CV(RMSE) | NMBE |", "| --- | --- | --- | --- | --- |",
        *(
            f"| {one.scope} | {one.group} | {one.rows:,} | {_percent(one.cv_rmse_ratio)} "
            f"| {_percent(one.nmbe_ratio)} |"
            for one in trained.groups
        ),
        "", "With noise of the sensors (one sigma: 0.5 degC, 1 % of utilisation) a prediction of these hours moves by:",
        "", "| class | hours | mean | 95th percentile |", "| --- | --- | --- | --- |",
        *(
            f"| {one.hardware_class} | {one.rows:,} | {one.mean_change_ratio:.2%} "
            f"| {one.p95_change_ratio:.2%} |"
            for one in trained.noise
        ),
    ]  # fmt: skip


def _rivals(trained: Trained) -> list[str]:
    """Return the contest on the forward test: what is registered won it, a plain rival or what was learned."""
    every = [row for row in trained.errors if (row.node_id, row.hours) == (ALL_NODES, ALL_HOURS)]
    rows = [row for row in every if row.model not in ON_NEWER_HOURS]
    met = [row for row in every if row.model in ON_NEWER_HOURS]
    known = sorted(rows, key=lambda row: row.errors.cv_rmse_ratio or float("inf"))
    return [
        "", "## Against plain models, on the same hours", "",
        f"The smallest within the tolerance of the best is registered: {trained.name}.",
        "", "| model | CV(RMSE) | WAPE | NMBE |", "| --- | --- | --- | --- |",
        *(
            f"| {f'**{trained.name}**' if row.model == MODEL else row.model} | {_percent(row.errors.cv_rmse_ratio)} "
            f"| {_percent(row.errors.wape_ratio)} | {_percent(row.errors.nmbe_ratio)} |"
            for row in known
        ),
        "", "rated_x_load is rated power x load of the row; linear and piecewise_linear are least squares on all known "
        "inputs, the latter bent in utilisation; learned is what validation chose, champion_recipe what it had "
        "chosen of the champion, fitted on the same hours.",
        *(
            ["", f"On the {met[0].errors.rows:,} hours from {trained.met_from:%Y-%m-%d} on, which the champion has not "
             "learnt, and this model fitted until then: "
             + ", ".join(f"{row.model} {_percent(row.errors.cv_rmse_ratio)}" for row in met)]
            if met else []
        ),
    ]  # fmt: skip


def _choice(trained: Trained) -> list[str]:
    choice, cpu_s = trained.selected.choice, trained.selected.candidate_cpu_s
    shares = ", ".join(f"{name} {share:.0%}" for name, share in choice.weights.items())
    lines = ["", "## How it was chosen", "", f"{trained.composed.recipe.name}: {shares}"]
    if trained.refused_choice is not None:
        lines += [
            "",
            "This new choice was refused; sections below tell of it, those above of what is registered.",
        ]
    if not choice.cv_rmse_ratio:
        return [*lines, "", "Too few days to validate candidates; nothing was compared."]
    return [
        *lines,
        "",
        f"Validated forward in time on {choice.rows:,} earlier hours:",
        "",
        "| candidate | CV(RMSE) | CPU-s of its validation fits |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {cv:.2%} | {f'{cpu_s[name]:.2f}' if name in cpu_s else ''} |"
            for name, cv in sorted(choice.cv_rmse_ratio.items(), key=lambda item: item[1])
        ),
    ]


def _classes(trained: Trained) -> list[str]:
    """Return who answers for which class, on what scale, and what an unseen class may expect."""
    composed = trained.composed
    scale = (
        "Pooled over normalised power, (P - idle) / (rated - idle) of the inventory: a class that it has never seen is "
        "predicted from its inventory row. A row without a rated power is taken at the median of the training rows."
        if composed.recipe.normalised
        else "Not every training hour has a rated power: one model in kWh, which knows nothing of unseen classes. Add "
        "rated_power_w (nodes) or gpu_rated_power_w (boards) to the inventory."
    )
    lines = ["", "## Hardware classes", "", scale]
    if composed.outcomes:
        lines += [
            "", "| class | training hours | its own | validated | CV(RMSE) pooled | known classes | own | answers |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *(
                f"| {one.hardware_class} | {one.rows:,} | {one.chosen} | {one.validated_rows:,} "
                f"| {' | '.join(_percent(one.cv_rmse_ratio.get(who)) for who in (POOLED, KNOWN, OWN))} "
                f"| {one.answers} |"
                for one in composed.outcomes
            ),
        ]  # fmt: skip
    lines += ["", _balance(composed.selected.balance)]
    left_out = ", ".join(f"{name} {cv:.1%}" for name, cv in composed.left_out_cv_rmse_ratio.items())
    return [*lines, *(["", f"CV(RMSE) of a class from all others alone: {left_out}"] if left_out else [])]


def _balance(balance: Balance | None) -> str:
    if balance is None:
        return "No class is scarce among the training rows, or too few days tell: no row counts more than another."
    (plain, even), (plain_classes, even_classes) = balance.overall, balance.of_classes
    taken = ", ".join(f"{name} {count} times" for name, count in balance.times.items())
    return (
        f"Rows of scarce classes repeated ({taken}): CV(RMSE) of the mean class {plain_classes:.2%} -> "
        f"{even_classes:.2%}, of all hours {plain:.2%} -> {even:.2%} on the validated hours; "
        f"{'kept' if balance.is_kept else 'not kept'} in the pooled model."
    )


def _smaller(trained: Trained, onnx: Exported, tolerance_ratio: float) -> list[str]:
    slimmed = trained.selected.slimmed
    if slimmed is None:
        return []
    in_float32 = (
        [f"| ONNX graph in float32 of all | | {len(onnx.data):,} | | {onnx.million.energy_j:.0f} | exported beside: "
         "another runtime, without the ends |"]
        if onnx.data is not None and onnx.million is not None
        else [f"| ONNX graph in float32 of all | | | | | {onnx.reason} |"]
    )  # fmt: skip
    return [
        "", "## What smaller would cost", "",
        "The chosen model and smaller ones, forward in time on the same hours, each fitted on at most 10,000 rows; the "
        f"fewest bytes within {tolerance_ratio:.0%} of its error win: {slimmed.chosen}.",
        "", "| variant | CV(RMSE) | bytes | CPU-s of a fit | J a million predictions | |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {one.name} | {one.cv_rmse_ratio:.2%} | {one.size_bytes:,} | {one.fit_cpu_s:.2f} "
            f"| {one.million.energy_j:.0f} | {slimmed.why_not(one, tolerance_ratio)} |"
            for one in slimmed.variants
        ),
        *(f"| {name} | | | | | not possible: {why} |" for name, why in slimmed.refused.items()),
        *in_float32,
    ]  # fmt: skip


def _cost(trained: Trained, onnx: Exported) -> list[str]:
    cost, million = trained.training_cost, trained.per_million
    estimated = f"CPU-seconds x {DEFAULT_CORE_POWER_W} W a core, not measured"
    how = "measured by RAPL" if cost.basis == RAPL else estimated
    return [
        "## What it costs",
        "",
        f"- Choosing and training: {cost.cpu_s:.1f} CPU-s, {cost.energy_j:.0f} J ({how})",
        f"- A million predictions: {million.cpu_s:.1f} CPU-s, {million.energy_j:.0f} J; of the mean alone "
        f"{trained.means_per_million.energy_j:.0f} J",
        *(
            [
                f"- A million predictions by ONNX in float32, {len(onnx.data):,} bytes: "
                f"{onnx.million.cpu_s:.1f} CPU-s, {onnx.million.energy_j:.0f} J"
            ]
            if onnx.data is not None and onnx.million is not None
            else []
        ),
    ]


def _limits(trained: Trained, onnx: Exported) -> list[str]:
    gap = _gap(trained.train_errors, trained)
    interval = "no interval: too few hours were predicted before they were learnt"
    if np.isfinite(trained.doubt.every).all():
        covered = trained.coverage
        interval = (
            f"the 90 % interval ({_ends(trained.doubt.every)} of the prediction"
            + "".join(f"; {name} {_ends(ends)}" for name, ends in trained.doubt.of_class.items())
            + f") rests on {trained.doubt.hours:,} hours that were predicted before they were learnt: the newest block "
            "of the training days, which chose nothing, and the test hours"
            + (
                f"; ends of the block alone held {covered.inside_ratio:.1%} of {covered.rows:,} test hours on "
                f"{covered.days} days{', beyond what so many days leave open' if covered.misses() else ''}"
                if covered
                else ""
            )
            + "; inputs far outside of what was learnt widen it"
        )
    exported = (
        f"{onnx.reason}. {_INSTEAD}"
        if onnx.reason
        else f"ONNX in float32, the mean alone, {onnx.differing_ratio:.2%} of {onnx.rows} rows at a split differ"
    )
    monotone = (
        "; ".join(str(drop) for drop in trained.response_drops) or "more load never lowers its mean response"
    )
    return ["", "## Limits", "", f"- {gap}", f"- {interval}", f"- {monotone}", f"- Export: {exported}"]


def _ends(factors: tuple[float, float]) -> str:
    return f"{factors[0] - 1:+.1%} to {factors[1] - 1:+.1%}"


def _percent(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2%}"


def _gap(taught: Errors, trained: Trained) -> str:
    after = next(row.errors for row in trained.errors)
    if taught.cv_rmse_ratio is None or after.cv_rmse_ratio is None:
        return "the gap between training and later hours is not known"
    return f"CV(RMSE) {taught.cv_rmse_ratio:.1%} on its training hours, {after.cv_rmse_ratio:.1%} after them"


def _csv(rows: list[dict[str, object]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    write_csv(text, list(rows[0]), (row.values() for row in rows))
    return text.getvalue()
