"""What the fitted model puts in the place of meters that are missing or silent, always marked as modelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.facility.fit import FacilityFit, StageLoss, predict_overhead
from lepton_etl.facility.hours import Floats
from lepton_etl.uncertainty import Z

MODELLED: Final = "modelled"
PART_HOURS: Final = pl.Schema(
    {
        "site_id": pl.String(), "hour_start": pl.Datetime("us", "UTC"), "part": pl.String(),
        "energy_kwh": pl.Float64(), "sigma_kwh": pl.Float64(),
    }
)  # fmt: skip
"""What stands for one part (cooling, management, or a stage) in one hour, one standard deviation beside it."""

# Points of the meters before and behind each stage; the boundary is the sum of sources by direction.
BOUNDARY: Final = "boundary"
STAGES: Final = {
    "transformer": (BOUNDARY, "transformer_out"),
    "ups": ("ups_in", "ups_out"),
    "pdu": ("ups_out", "pdu_out"),
}


def modelled_overhead(hours: pl.DataFrame, fits: Mapping[str, FacilityFit]) -> pl.DataFrame:
    """PART_HOURS of cooling and management for every hour whose IT energy and wet bulb are known.

    `hours` has site_id, hour_start, it_energy_kwh (of the same scope as gold/site_hour), outdoor_wet_bulb_temp_c.
    Sites without an accepted fit, or whose fit knows one overhead only, have no rows.
    """
    parts = [pl.DataFrame(schema=PART_HOURS)]
    for site_id, fit in sorted(fits.items()):
        if not fit.accepted or fit.management_kwh is None:
            continue
        known = hours.filter(pl.col("site_id") == site_id).drop_nulls(
            ["it_energy_kwh", "outdoor_wet_bulb_temp_c"]
        )
        it_kwh, wet_bulb_c = _drivers(known)
        made = predict_overhead(fit, it_kwh, wet_bulb_c)
        assert made.cooling_kwh is not None and made.management_kwh is not None
        sigma = (made.upper_kwh - made.lower_kwh) / (2 * Z)
        management_low, management_high = fit.intervals["management_kwh"]
        parts += [
            _part(known, "cooling", made.cooling_kwh, sigma),
            _part(
                known, "management", made.management_kwh,
                np.full(len(it_kwh), (management_high - management_low) / (2 * Z)),
            ),
        ]  # fmt: skip
    return pl.concat(parts)


def stage_sums(meters: pl.DataFrame) -> pl.DataFrame:
    """Hours of meters -> one row a site-hour with the energy at each point of STAGES; null where a meter is silent.

    `meters` has site_id, hour_start, point, direction (+1, -1 at the boundary, else null), energy_kwh.
    """
    at_boundary = pl.col("direction").is_not_null()
    points = sorted({point for pair in STAGES.values() for point in pair} - {BOUNDARY})
    # Sorted: a sum of doubles changes with the order of its rows, and with it the curves fitted on it.
    ordered = meters.sort("site_id", "hour_start", "point", "energy_kwh")
    return ordered.group_by("site_id", "hour_start", maintain_order=True).agg(
        _whole_sum(pl.col("energy_kwh") * pl.col("direction"), at_boundary).alias(BOUNDARY),
        *(_whole_sum(pl.col("energy_kwh"), pl.col("point") == point).alias(point) for point in points),
    )


def modelled_stages(meters: pl.DataFrame, stages: Mapping[str, Mapping[str, StageLoss]]) -> pl.DataFrame:
    """PART_HOURS of the losses of stages by the curves of each site's stages, where either side is known.

    By what went in where that is known, else by what came out: so a feed that falls silent behind a stage does not
    move its loss.
    """
    sums = stage_sums(meters)
    parts = [pl.DataFrame(schema=PART_HOURS)]
    for site_id, curves in sorted(stages.items()):
        of_site = sums.filter(pl.col("site_id") == site_id)
        for part, curve in sorted(curves.items()):
            before, behind = STAGES[part]
            by_input = of_site.filter(pl.col(before).is_not_null())
            by_output = of_site.filter(pl.col(before).is_null() & pl.col(behind).is_not_null())
            for known, side, loss in (
                (by_input, before, curve.from_input),
                (by_output, behind, curve.from_output),
            ):
                energy = loss(known[side].to_numpy())
                parts.append(_part(known, part, energy, np.full(len(energy), curve.error_kwh)))
    return pl.concat(parts).sort("site_id", "hour_start", "part")


def with_modelled_overhead(site_hours: pl.DataFrame, fits: Mapping[str, FacilityFit]) -> pl.DataFrame:
    """Fill facility energy and PUE of rows of gold/site_hour that have IT energy and no facility energy.

    facility = IT + overhead + conversion loss; where the loss has no curve, and the overhead does not hold it, the
    row stays as it is. Adds overhead_modelled_kwh, its interval (`_lower_`, `_upper_`), null elsewhere.
    """
    filled = [_filled(of_site, fits.get(str(site_id))) for (site_id,), of_site in site_hours.group_by(
        "site_id", maintain_order=True
    )]  # fmt: skip
    return pl.concat(filled) if filled else _filled(site_hours, None)


def _filled(rows: pl.DataFrame, fit: FacilityFit | None) -> pl.DataFrame:
    drivers = [pl.col(name).is_not_null() for name in ("it_energy_kwh", "outdoor_wet_bulb_temp_c")]
    count = rows.height
    total, lower, upper, loss = (np.full(count, np.nan) for _ in range(4))
    if fit is not None and fit.accepted:
        it_kwh, wet_bulb_c = _drivers(rows)
        made = predict_overhead(fit, it_kwh, wet_bulb_c)
        total, lower, upper = made.total_kwh, made.lower_kwh, made.upper_kwh
        if fit.management_kwh is None:
            loss = np.zeros(count)
        elif fit.loss is not None:
            loss = fit.loss.from_output(it_kwh)
    named = {"overhead_modelled_kwh": total, "overhead_modelled_lower_kwh": lower,
             "overhead_modelled_upper_kwh": upper, "_loss": loss}  # fmt: skip
    made_rows = rows.with_columns(
        pl.Series(name, values, pl.Float64).fill_nan(None) for name, values in named.items()
    )
    is_filled = (
        pl.all_horizontal(
            *drivers, pl.col("overhead_modelled_kwh").is_not_null(), pl.col("_loss").is_not_null()
        )
        & pl.col("facility_energy_kwh").is_null()
    )
    facility = pl.col("it_energy_kwh") + pl.col("overhead_modelled_kwh") + pl.col("_loss")
    return made_rows.with_columns(
        _where(is_filled, facility, "facility_energy_kwh"),
        _where(is_filled & (pl.col("it_energy_kwh") > 0), facility / pl.col("it_energy_kwh"), "pue_ratio"),
        _where(is_filled, pl.lit(MODELLED), "facility_basis"),
        _where(is_filled & (pl.col("it_energy_kwh") > 0), pl.lit(MODELLED), "pue_basis"),
        *(pl.when(is_filled).then(pl.col(name)) for name in named if name != "_loss"),
    ).drop("_loss")


def _where(chosen: pl.Expr, value: pl.Expr, name: str) -> pl.Expr:
    return pl.when(chosen).then(value).otherwise(pl.col(name)).alias(name)


def _whole_sum(value: pl.Expr, chosen: pl.Expr) -> pl.Expr:
    """Sum over the chosen meters; null where one of them is silent or there is none."""
    energy = value.filter(chosen)
    return pl.when((energy.len() > 0) & (energy.null_count() == 0)).then(energy.sum())


def _drivers(hours: pl.DataFrame) -> tuple[Floats, Floats]:
    return (
        hours["it_energy_kwh"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
        hours["outdoor_wet_bulb_temp_c"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
    )


def _part(hours: pl.DataFrame, part: str, energy_kwh: Floats, sigma_kwh: Floats) -> pl.DataFrame:
    return (
        hours.select("site_id", "hour_start")
        .with_columns(
            pl.lit(part).alias("part"), pl.Series("energy_kwh", energy_kwh), pl.Series("sigma_kwh", sigma_kwh)
        )
        .cast(PART_HOURS)
    )
