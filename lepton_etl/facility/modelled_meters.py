"""What the fitted model puts in the place of meters that are missing or silent, always marked as modelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.config.sections import Transformer
from lepton_etl.energy.exact_sums import ends
from lepton_etl.facility.fit import FacilityFit, StageLoss, fit_stage_loss, predict_overhead
from lepton_etl.facility.hours import Floats
from lepton_etl.facility.pue import has_stated_error, it_half_kwh
from lepton_etl.uncertainty import Z

MODELLED: Final = "modelled"
PART_HOURS: Final = pl.Schema(
    {
        "site_id": pl.String(), "hour_start": pl.Datetime("us", "UTC"), "part": pl.String(),
        "energy_kwh": pl.Float64(), "sigma_kwh": pl.Float64(), "basis": pl.String(), "scatter_kwh": pl.Float64(),
        "most_kwh": pl.Float64(),
    }
)  # fmt: skip
"""What stands for one part (cooling, management, or a stage) in one hour, one standard deviation beside it.

`basis` is what it rests on; of a stage's loss `scatter_kwh` is what a fitted curve leaves from hour to hour, and
`most_kwh` the largest loss that such equipment can have.
"""
NAMEPLATE: Final = "nameplate"
FITTED: Final = "fitted on earlier days"
CLASS_DEFAULT: Final = "class default"
NO_STAGE: Final = "not a part of the site"
MODEL: Final = "facility model"


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a class of conversion equipment loses: shares of what it takes, and at no load of its rating.

    Nobody knows the rating; it is at most RATING_OVER_PEAK times the largest hour seen.
    Source: docs/formulas.md, conversion losses by class.
    """

    low_ratio: float
    high_ratio: float
    no_load_ratio: float

    @property
    def mean_ratio(self) -> float:
        return (self.low_ratio + self.high_ratio) / 2

    @property
    def sigma_ratio(self) -> float:
        """One standard deviation: any share within the range is as likely as another (GUM 4.3.7)."""
        return (self.high_ratio - self.low_ratio) / 2 / sqrt(3)

    def most_kwh(self, input_kwh: Floats) -> Floats:
        """The largest loss of hours of one site by what the stage takes, both (n,); NaN is unknown."""
        peak = float(np.nanmax(input_kwh, initial=0.0))
        return np.asarray(self.high_ratio * input_kwh + self.no_load_ratio * RATING_OVER_PEAK * peak)


RATING_OVER_PEAK: Final = 4.0
EQUIPMENT: Final = {
    "transformer": Equipment(0.005, 0.03, 0.005),
    "ups": Equipment(0.04, 0.12, 0.02),
    "pdu": Equipment(0.005, 0.03, 0.005),
}

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
            _part(known, "cooling", made.cooling_kwh, sigma, MODEL),
            _part(
                known, "management", made.management_kwh,
                np.full(len(it_kwh), (management_high - management_low) / (2 * Z)), MODEL,
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


def fitted_stages(before: Mapping[str, Floats], behind: Mapping[str, Floats]) -> dict[str, StageLoss]:
    """Curves of the stages whose both sides are metered, from hours of earlier days (kWh by stage, NaN is unknown).

    Hours whose difference is no loss that such equipment can have are left out; a curve that is none itself (a meter
    that was wrong all the time) is refused.
    """
    curves = {}
    for part, equipment in EQUIPMENT.items():
        taken, given = before[part], behind[part]
        loss, most = taken - given, equipment.most_kwh(taken)
        possible = (loss >= 0) & (loss <= most)
        curve = fit_stage_loss(np.where(possible, taken, np.nan), given)
        # Where most hours are impossible the rest are no sample of the equipment.
        known = np.isfinite(loss) & (np.nan_to_num(given) > 0)
        if curve is not None and possible.sum() > known.sum() / 2:
            curves[part] = curve
    return curves


# Loads that differ by more than this are not one load: a meter is wrong.
LOAD_RATIO: Final = 0.15


def usual_loads(sums: pl.DataFrame, nodes: pl.DataFrame) -> pl.DataFrame:
    """Rows of stage_sums in which a load that the others contradict is the median of what all say of it.

    A loss by the load of a wrong meter would be wrong too. What stands behind a UPS says its load by the mean losses of
    the classes, and so do the nodes (site_id, hour_start, energy_kwh). Two loads that differ are left as they are.
    """
    known = sums.join(
        nodes.select("site_id", "hour_start", pl.col("energy_kwh").alias("_nodes")),
        on=["site_id", "hour_start"], how="left", maintain_order="left",
    )  # fmt: skip
    lost = {"ups_in": 1.0, "ups_out": 1.0 - EQUIPMENT["ups"].mean_ratio}
    lost["pdu_out"] = lost["_nodes"] = lost["ups_out"] * (1.0 - EQUIPMENT["pdu"].mean_ratio)
    scaled = [pl.col(name) / ratio for name, ratio in lost.items()]
    load = pl.concat_list(scaled).list.drop_nulls()
    usual = pl.when(load.list.len() > 2).then(load.list.median())
    return known.with_columns(
        pl.when((pl.col(name) / ratio / usual - 1).abs() > LOAD_RATIO)
        .then(usual * ratio)
        .otherwise(name)
        .alias(name)
        for name, ratio in lost.items()
    ).drop("_nodes")


def modelled_stages(sums: pl.DataFrame, stages: Mapping[str, Mapping[str, StageLoss]]) -> pl.DataFrame:
    """PART_HOURS of the losses of stages by the curves of each site's stages, where either side is known (stage_sums).

    By what went in where that is known, else by what came out: so a feed that falls silent behind a stage does not
    move its loss.
    """
    parts = [pl.DataFrame(schema=PART_HOURS)]
    for site_id, curves in sorted(stages.items()):
        of_site = sums.filter(pl.col("site_id") == site_id)
        for part, curve in sorted(curves.items()):
            before, behind = (_numbers(of_site[name]) for name in STAGES[part])
            energy = np.where(np.isfinite(before), curve.from_input(before), curve.from_output(behind))
            taken = np.where(np.isfinite(before), before, behind + energy)
            error = np.full(len(energy), curve.error_kwh)
            parts.append(_loss(of_site, part, energy, error, FITTED, taken, error))
    return pl.concat(parts).sort("site_id", "hour_start", "part")


def nameplate_losses(sums: pl.DataFrame, plate: Transformer) -> pl.DataFrame:
    """PART_HOURS of a transformer by its nameplate: rating x (no-load + load loss x (load / rating)^2).

    The load is what crosses the site's boundary, mean power of the hour. The error is half of the load loss: the
    square is of the hour's mean, and the nameplate speaks of the reference temperature.
    Source: IEC 60076-1 (no-load loss constant, load loss by the square of the current).
    """
    rating_kwh = plate.rated_power_w / 1000.0
    parts = [pl.DataFrame(schema=PART_HOURS)]
    for (_,), of_site in sums.sort("site_id", "hour_start").group_by("site_id", maintain_order=True):
        taken = _numbers(of_site[BOUNDARY])
        by_load = rating_kwh * plate.load_loss_ratio * (taken / rating_kwh) ** 2
        energy = rating_kwh * plate.no_load_loss_ratio + by_load
        parts.append(_loss(of_site, "transformer", energy, by_load / 2, NAMEPLATE, taken, by_load / 2))
    return pl.concat(parts)


def default_stages(sums: pl.DataFrame, it_hours: pl.DataFrame, stages: Sequence[str]) -> pl.DataFrame:
    """PART_HOURS of the losses of a site's stages by the range of their class, where anything says their load.

    The load is what the stage takes, else what it gives, else that of the stage behind it with its loss, at last the
    nodes' (`it_hours`: site_id, hour_start, energy_kwh). A stage that is not listed is no part of the site and loses 0.
    """
    parts = [pl.DataFrame(schema=PART_HOURS)]
    known = it_hours.select("site_id", "hour_start", pl.col("energy_kwh").alias("_nodes"))
    listed = known.join(sums, on=["site_id", "hour_start"], how="left", maintain_order="left")
    for (_,), of_site in listed.sort("site_id", "hour_start").group_by("site_id", maintain_order=True):
        behind = _numbers(of_site["_nodes"])
        for part in ("pdu", "ups", "transformer"):
            equipment = EQUIPMENT[part]
            before, after = (_numbers(of_site[name]) for name in STAGES[part])
            # Cooling stands behind the transformer too: what the UPS takes does not say its load.
            estimate = np.full(len(behind), np.nan) if part == "transformer" else behind
            given = np.where(np.isfinite(after), after, estimate)
            ratio = equipment.mean_ratio if part in stages else 0.0
            taken = np.where(np.isfinite(before), before, given / (1.0 - ratio))
            basis, sigma = (CLASS_DEFAULT, equipment.sigma_ratio) if part in stages else (NO_STAGE, 0.0)
            parts.append(_loss(of_site, part, ratio * taken, sigma * taken, basis, taken, sigma * taken))
            behind = taken
    return pl.concat(parts).sort("site_id", "hour_start", "part")


def _loss(
    hours: pl.DataFrame, part: str, energy_kwh: Floats, sigma_kwh: Floats, basis: str, input_kwh: Floats,
    scatter_kwh: Floats,
) -> pl.DataFrame:  # fmt: skip
    """PART_HOURS of one stage of one site, where its loss is known."""
    # Day by day: a range of days has the rows that its nights would have.
    _, day = np.unique(hours["hour_start"].dt.date().to_numpy(), return_inverse=True)
    most = np.empty(len(day))
    for number in range(int(day.max(initial=-1)) + 1):
        most[day == number] = EQUIPMENT[part].most_kwh(input_kwh[day == number])
    rows = _part(hours, part, energy_kwh, sigma_kwh, basis, scatter_kwh, most)
    return rows.filter(pl.col("energy_kwh").is_not_nan())


def with_modelled_overhead(site_hours: pl.DataFrame, fits: Mapping[str, FacilityFit]) -> pl.DataFrame:
    """Fill facility energy and PUE of rows of gold/site_hour that have IT energy and no facility energy.

    facility = IT + overhead + conversion loss + other carriers; where the loss has no curve, and the overhead does not
    hold it, the row stays as it is. Adds overhead_modelled_kwh, its interval (`_lower_`, `_upper_`), null elsewhere.
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
            # The boundary's total has the other carriers in it.
            loss = np.zeros(count)
        elif fit.loss is not None:
            loss = fit.loss.from_output(it_kwh) + _numbers(rows["carrier_energy_kwh"])
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
    of_overhead = (pl.col("overhead_modelled_upper_kwh") - pl.col("overhead_modelled_lower_kwh")) / 2
    half = pl.when(has_stated_error()).then((it_half_kwh().pow(2) + of_overhead.pow(2)).sqrt())
    return made_rows.with_columns(
        _where(is_filled, facility, "facility_energy_kwh"),
        *(
            _where(is_filled, end, end.meta.output_name())
            for end in ends("facility_energy_kwh", facility, half)
        ),
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
    return _numbers(hours["it_energy_kwh"]), _numbers(hours["outdoor_wet_bulb_temp_c"])


def _numbers(column: pl.Series) -> Floats:
    return np.asarray(column.cast(pl.Float64).fill_null(np.nan).to_numpy(), dtype=np.float64)


def _part(
    hours: pl.DataFrame, part: str, energy_kwh: Floats, sigma_kwh: Floats, basis: str,
    scatter_kwh: Floats | None = None, most_kwh: Floats | None = None,
) -> pl.DataFrame:  # fmt: skip
    return (
        hours.select("site_id", "hour_start")
        .with_columns(
            pl.lit(part).alias("part"), pl.Series("energy_kwh", energy_kwh), pl.Series("sigma_kwh", sigma_kwh),
            pl.lit(basis).alias("basis"), _column("scatter_kwh", scatter_kwh),
            _column("most_kwh", most_kwh),
        )
        .cast(PART_HOURS)
    )  # fmt: skip


def _column(name: str, values: Floats | None) -> pl.Series | pl.Expr:
    return pl.lit(None, pl.Float64).alias(name) if values is None else pl.Series(name, values)
