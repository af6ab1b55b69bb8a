"""Water and fuel of the site by the hour, and each cluster's share of the water."""

from __future__ import annotations

from typing import Final

import polars as pl

from lepton_etl.days import Days
from lepton_etl.energy.exact_sums import FINE_DIGITS, ends, exact_sum, quotient, whole_sum
from lepton_etl.energy.node_hours import expected_hours
from lepton_etl.facility.meter_hours import class_half, class_sigma_ratio
from lepton_etl.facility.pue import top_meters
from lepton_etl.schema.declare import SECONDS_PER_HOUR

_HOUR: Final = ["site_id", "hour_start"]


def site_volumes(
    meters: pl.DataFrame,
    volumes: pl.DataFrame,
    carrier: str,
    name: str,
    days: Days,
    coverage_min_ratio: float,
) -> pl.DataFrame:
    """silver/meter and silver/volume_interval -> litres of one carrier (water, fuel) of each site-hour, as `name`.

    The sum of volume_hours. A silent meter leaves the hour null: the sum of the others would be too little.
    `<name>_half` is half of the 90 % interval by the meters' classes.
    Source: ISO/IEC 30134-9: water that enters the data centre's boundary.
    """
    litres = pl.col("signed_l")
    return (
        volume_hours(meters, volumes, carrier, days, coverage_min_ratio)
        .group_by(_HOUR)
        .agg(
            whole_sum(litres).alias(name),
            class_half(
                exact_sum((litres * class_sigma_ratio()).pow(2), FINE_DIGITS).sqrt(), (litres != 0).sum()
            ).alias(f"{name}_half"),
        )
    )


def volume_hours(
    meters: pl.DataFrame, volumes: pl.DataFrame, carrier: str, days: Days, coverage_min_ratio: float
) -> pl.DataFrame:
    """Return each expected hour of the meters of a carrier with its litres, signed (a return flow is -1): `signed_l`.

    Only meters that no other of the carrier stands above. Null below the coverage limit.
    """
    sums = volumes.group_by(
        "site_id", "meter_id", pl.col("interval_start").dt.truncate("1h").alias("hour_start")
    ).agg(
        exact_sum(pl.col("volume_l")).alias("volume_l"), exact_sum(pl.col("observed_s")).alias("observed_s")
    )
    known = pl.col("observed_s") >= coverage_min_ratio * SECONDS_PER_HOUR
    litres = pl.when(known).then(pl.col("volume_l") * pl.col("sign").fill_null(1))
    return (
        expected_hours(top_meters(meters.filter(pl.col("carrier") == carrier)), days)
        .join(sums, on=["site_id", "meter_id", "hour_start"], how="left")
        .with_columns(litres.alias("signed_l"), pl.col("sign").fill_null(1))
    )


def with_water(cluster_hours: pl.DataFrame, site_water: pl.DataFrame) -> pl.DataFrame:
    """Add `water_l` and `water_basis` to cluster hours of with_overhead: the site's litres by the clusters' IT energy.

    Litres belong to IT energy (WUE is litres per IT kWh); PUE has no part in it. Where one cluster of the hour has
    no IT energy, nobody's share is known. Interval, 90 %: the errors of the water meters and of the cluster's share.
    Source: ISO/IEC 30134-9; docs/definitions.md section 4 (overheads by IT energy).
    """
    energy = pl.col("it_energy_kwh")
    total = pl.when(energy.null_count().over(_HOUR) == 0).then(exact_sum(energy).over(_HOUR))
    water = pl.col("site_water_l") * quotient(energy, total)
    by_meters = quotient(pl.col("water_l_half"), pl.col("site_water_l"))
    half = pl.col("water_l") * (pl.col("share_half_ratio").pow(2) + by_meters.pow(2)).sqrt()
    return (
        cluster_hours.join(site_water.rename({"water_l": "site_water_l"}), on=_HOUR, how="left")
        .with_columns(water.alias("water_l"))
        .with_columns(
            pl.when(pl.col("water_l").is_null()).then(pl.lit("none")).otherwise(pl.lit("measured")).alias("water_basis"),
            *ends("water_l", pl.col("water_l"), half),
        )
        .drop("site_water_l", "water_l_half", "share_half_ratio")
    )  # fmt: skip
