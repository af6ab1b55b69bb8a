"""The two-sided 90 % interval of a figure, from one standard deviation of a normal error."""

from __future__ import annotations

from pyspark.sql import Column
from pyspark.sql import functions as F


def interval_90(half_width: Column) -> dict[str, Column]:
    """Lower and upper end of the 90 % interval around `it_energy_kwh`; the lower end is never below 0."""
    energy = F.col("it_energy_kwh")
    lower = energy - half_width
    # greatest() passes over nulls: an unknown lower end would become 0.
    return {
        "it_energy_lower_kwh": F.when(lower.isNotNull(), F.greatest(lower, F.lit(0.0))),
        "it_energy_upper_kwh": energy + half_width,
    }
