"""gold/facility_fit -> MLflow: the overhead model of each site, with its card, gate and hash like the device model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd

from lepton_etl.days import Days
from lepton_etl.facility.estimator import COLUMNS, TARGET, WET_BULB, Q, estimator
from lepton_etl.facility.fit import FacilityFit
from lepton_etl.facility.rows import fit_of
from lepton_etl.lake.runs import code_version
from lepton_etl.lake.tables.facility import FACILITY_FIT
from lepton_etl.models.cards import Fitted
from lepton_etl.models.export_onnx import Exported, export
from lepton_etl.models.gate import Verdict
from lepton_etl.models.registry import FACILITY_PREFIX, Registry
from lepton_etl.models.release import Release
from lepton_etl.models.verified import FORWARD_ERROR_TAG
from pipelines.stage import StageContext

_CHECKED_ROWS = 256
# Of a site's name in a model's, which has 63 characters at most.
_LONGEST = 63 - len(FACILITY_PREFIX)


def model_name(site_id: str) -> str:
    """The registered name of a site's model: letters, digits, '_' and '-' only; others are told by a hash."""
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "_-") else "-" for one in site_id)
    if plain == site_id and len(plain) <= _LONGEST:
        return f"{FACILITY_PREFIX}{site_id}"
    return f"{FACILITY_PREFIX}{plain[: _LONGEST - 9]}-{sha256(site_id.encode()).hexdigest()[:8]}"


def register_fits(context: StageContext, registry: Registry) -> tuple[str, ...]:
    """Register the fit of the run's last day of each site, unless it is registered already; what was done, in words."""
    rows = context.lake.read_few(FACILITY_FIT, Days.of(context.days.end)).toArrow().to_pylist()
    return tuple(_registered(context, registry, row) for row in sorted(rows, key=lambda row: row["site_id"]))


def _registered(context: StageContext, registry: Registry, row: Mapping[str, Any]) -> str:
    name = model_name(row["site_id"])
    key = sha256(f"{row['code_sha256']}\n{row['parameters_json']}".encode()).hexdigest()
    known = registry.latest(name, "training_key", key)
    if known is not None:
        return f"{name} version {known.version} is this fit: nothing registered"
    champion = registry.champion(name)
    reasons = [] if row["accepted"] else [row["fit_reason"] or "not accepted"]
    if champion is not None and champion.tags.get("fitted_until", "") > row["fitted_until"].isoformat():
        reasons.append(
            f"fitted until {row['fitted_until']}, the champion until {champion.tags['fitted_until']}"
        )
    version = registry.release(name, _release(context, row, key, Verdict(not reasons, tuple(reasons))))
    decided = f"refused: {'; '.join(reasons)}" if reasons else "is champion"
    return f"{name} version {version.version} {decided}; {row['fit_kind']}, {row['fit_hours']:,} hours"


def _release(context: StageContext, row: Mapping[str, Any], key: str, verdict: Verdict) -> Release:
    fit, _ = fit_of(row)
    model = Fitted(estimator(fit), COLUMNS)
    rows = _rows(fit, row)
    graph = export(model, rows)
    return Release(
        estimator=model.pipeline,
        example=rows.head(5),
        columns=COLUMNS,
        target=TARGET,
        params={name: row[name] for name in ("site_id", "fit_kind", "fit_hours", "test_hours")},
        tags=_tags(context, row, key) | {"onnx": "exported" if graph.data is not None else graph.reason},
        metrics={
            name: row[name]
            for name in ("cv_rmse_ratio", "nmbe_ratio", "it_share_cv_rmse_ratio", "last_week_cv_rmse_ratio")
            if row[name] is not None
        },
        verdict=verdict,
        texts={"model_card.md": _card(row, fit, verdict, graph)},
        tables={"parameters.json": json.loads(row["parameters_json"])},
        onnx=graph.data,
    )


def _tags(context: StageContext, row: Mapping[str, Any], key: str) -> dict[str, str]:
    error = row["cv_rmse_ratio"]
    return {
        "training_key": key,
        "delta_versions": json.dumps({FACILITY_FIT.name: context.lake.version(FACILITY_FIT)}),
        "code_version": code_version(),
        "run_id": context.run_id,
        "chosen": row["fit_kind"],
        "fitted_until": row["fitted_until"].isoformat(),
        "cut_time": row["fitted_until"].isoformat(),
    } | ({} if error is None else {FORWARD_ERROR_TAG: f"{error:.6f}"})


def _rows(fit: FacilityFit, row: Mapping[str, Any]) -> pd.DataFrame:
    """Hours in the range that the fit has seen: an example of the inputs, and what an export is compared on."""
    rng = np.random.default_rng(1)
    low_c, high_c = row["wet_bulb_p05_c"] or 0.0, row["wet_bulb_p95_c"] or 20.0
    return pd.DataFrame(
        {
            Q: fit.mean_it_kwh * rng.uniform(0.5, 1.5, _CHECKED_ROWS),
            WET_BULB: rng.uniform(low_c, high_c, _CHECKED_ROWS),
        }
    )


def _card(row: Mapping[str, Any], fit: FacilityFit, verdict: Verdict, graph: Exported) -> str:
    def percent(name: str) -> str:
        return "unknown" if row[name] is None else f"{row[name]:.1%}"

    ratio = row["cooling_ratio"]
    parts = (
        "cooling and conversion are not metered apart: one overhead"
        if fit.management_kwh is None
        else f"of which management {fit.management_kwh:.3f} kWh an hour; E_c / IT {ratio:.3f} at the mean hour"
    )
    decided = "champion" if verdict.promoted else f"refused: {verdict.reason}"
    exported = graph.reason or f"ONNX in float32, checked on {graph.rows} rows"
    return "\n".join(
        (
            f"# Overhead of site {row['site_id']}: cooling and management energy of one hour, kWh",
            "",
            f"- Decision: {decided}",
            f"- Form: {row['fit_kind']}, {parts}",
            f"- Fitted on {row['fit_hours']:,} hours from {row['fitted_from']} to {row['fitted_until']}; tested "
            f"forward on the last {row['test_hours']:,} of them, then fitted again on all",
            f"- Forward test: CV(RMSE) {percent('cv_rmse_ratio')}, NMBE {percent('nmbe_ratio')}; of the guesses by "
            f"IT share {percent('it_share_cv_rmse_ratio')}, by the hour a week before "
            f"{percent('last_week_cv_rmse_ratio')}",
            "- PUE of an hour by this model: 1 + overhead / IT energy, conversion losses apart where they are metered",
            f"- Identifiable: {'yes' if row['identifiable'] else 'no'}; wet bulbs seen {row['wet_bulb_p05_c']} to "
            f"{row['wet_bulb_p95_c']} degC (5th to 95th percentile)",
            f"- Intervals of its parameters (90 %): {row['intervals_json']}",
            f"- Export: {exported}",
            "- Not for: another site, a set point that was not in use, hours beyond the wet bulbs seen.",
            "",
        )
    )  # fmt: skip
