"""What the energy of an hour costs, and which cluster bears it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import pyarrow as pa

from lepton_etl.billing.tariff import energy_prices
from lepton_etl.facility.meter_hours import (
    HOUR_S,
    bucket_imports,
    class_half,
    class_sigma_ratio,
    import_intervals,
    import_meters,
    in_buckets,
)
from lepton_etl.schema.declare import end_names


@dataclass(frozen=True)
class Meters:
    """The meters of one site with their intervals, its zone and the least coverage of a known bucket."""

    meters: pa.Table
    intervals: pa.Table
    zone: str
    coverage_min_ratio: float

    def imports(self, starts: Sequence[datetime], bucket_s: int) -> pl.DataFrame:
        """`start`, `import_kwh`, `power_w` of each bucket."""
        intervals = import_intervals(self.meters, self.intervals)
        return bucket_imports(
            import_meters(self.meters), intervals, starts, bucket_s, self.coverage_min_ratio
        )


def site_costs(meters: Meters, tariff: pa.Table, site_hours: pa.Table) -> pl.DataFrame:
    """Site-hours -> rows of gold/site_cost.

    Energy cost = metered import x the price of its intervals. Without a utility meter the facility energy of the hour
    stands for the import, with its basis. The cost is null where energy or price is unknown. Interval, 90 %: that of
    the energy, at the meter by the widest class of the site's import meters; a price has none.
    """
    hours = pl.DataFrame(site_hours).select(
        "date",
        "site_id",
        pl.col("hour_start").alias("start"),
        "facility_energy_kwh",
        "facility_basis",
        "facility_energy_upper_kwh",
    )
    starts = hours["start"].unique().sort().to_list()
    prices = hour_prices(meters, tariff, starts)
    is_metered = import_meters(meters.meters).height > 0
    energy = pl.col("import_kwh") if is_metered else pl.col("facility_energy_kwh")
    basis = pl.lit("measured") if is_metered else pl.col("facility_basis")
    cost = energy * pl.col("energy_price")
    half = energy * _class_half_ratio(meters) if is_metered else pl.col("facility_energy_upper_kwh") - energy
    return (
        hours.join(meters.imports(starts, HOUR_S), on="start", how="left")
        .join(prices, on="start", how="left")
        .select(
            "date",
            pl.col("start").alias("hour_start"),
            "site_id",
            "energy_price",
            cost.alias("energy_cost"),
            pl.lit(currency_of(tariff)).alias("currency"),
            pl.when(cost.is_null()).then(pl.lit("none")).otherwise(basis).alias("cost_basis"),
            *_ends_of(cost, half * pl.col("energy_price")),
        )
        .sort("site_id", "hour_start")
    )


def cluster_costs(costs: pl.DataFrame, site_hours: pa.Table, cluster_hours: pa.Table) -> pl.DataFrame:
    """The site's energy cost of each hour by facility energy -> rows of gold/cluster_cost.

    Interval, 90 %: that of the cluster's facility energy; the meter's own error is in both and small.
    """
    site = pl.DataFrame(site_hours).select(
        "site_id", "hour_start", pl.col("facility_energy_kwh").alias("of_site_kwh")
    )
    share = pl.col("facility_energy_kwh") / pl.when(pl.col("of_site_kwh") > 0).then("of_site_kwh")
    cost = pl.col("energy_cost") * share
    energy = pl.col("facility_energy_kwh")
    half = cost.abs() * (pl.col("facility_energy_upper_kwh") - energy) / pl.when(energy > 0).then(energy)
    return (
        pl.DataFrame(cluster_hours)
        .select(
            "date", "hour_start", "site_id", "cluster_id", "facility_energy_kwh", "facility_energy_upper_kwh"
        )
        .join(site, on=["site_id", "hour_start"], how="left")
        .join(costs.drop("date"), on=["site_id", "hour_start"], how="left")
        .select(
            "date",
            "hour_start",
            "site_id",
            "cluster_id",
            cost.alias("energy_cost"),
            "currency",
            pl.when(cost.is_null()).then(pl.lit("none")).otherwise("cost_basis").alias("cost_basis"),
            *_ends_of(cost, half),
        )
        .sort("site_id", "cluster_id", "hour_start")
    )


def _class_half_ratio(meters: Meters) -> float:
    """Half the 90 % interval of the import, relative: by the widest class of its meters."""
    listed = pl.DataFrame(meters.meters).join(
        import_meters(meters.meters).select("meter_id").unique(), on="meter_id", how="semi"
    )
    number = pl.col("meter_id").n_unique()
    return float(listed.select(class_half(class_sigma_ratio().max(), number)).item())


def _ends_of(cost: pl.Expr, half: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Ends of a cost, which is below 0 where the price is."""
    lower, upper = end_names("energy_cost")
    return (cost - half.abs()).alias(lower), (cost + half.abs()).alias(upper)


def hour_prices(meters: Meters, tariff: pa.Table, starts: Sequence[datetime]) -> pl.DataFrame:
    """Price of each hour: by the metered energy of its intervals, else their plain mean; null where one has none."""
    grid = pl.DataFrame({"start": pl.Series(starts, dtype=pl.Datetime("us", "UTC"))}).sort("start")
    minutes = pl.Series(range(0, HOUR_S, 300), dtype=pl.Int64)
    even = grid.join(pl.DataFrame({"offset": minutes}), how="cross").select(
        pl.col("start").alias("bucket"), (pl.col("start") + pl.duration(seconds="offset")).alias("start")
    )
    even = even.with_columns(energy_prices(tariff, even["start"], meters.zone))
    metered = in_buckets(import_intervals(meters.meters, meters.intervals), grid, HOUR_S)
    metered = metered.with_columns(energy_prices(tariff, metered["start"], meters.zone))
    energy, price = pl.col("energy_kwh"), pl.col("energy_price")
    weighted = (
        metered.sort("start", "energy_kwh")
        .group_by("bucket", maintain_order=True)
        .agg(
            pl.when((price.null_count() == 0) & (energy.sum() > 0))
            .then((energy * price).sum() / energy.sum())
            .alias("weighted")
        )
    )
    plain = (
        even.sort("start")
        .group_by("bucket", maintain_order=True)
        .agg(pl.when(price.null_count() == 0).then(price.mean()).alias("plain"))
    )
    return (
        plain.join(weighted, on="bucket", how="left")
        .select(pl.col("bucket").alias("start"), pl.coalesce("weighted", "plain").alias("energy_price"))
        .sort("start")
    )


def currency_of(tariff: pa.Table) -> str | None:
    """The tariff's one currency; None without a tariff."""
    return str(tariff["currency"][0].as_py()) if tariff.num_rows else None
