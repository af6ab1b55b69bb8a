"""Fields of the figures that people read."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import (
    DOUBLE,
    INT,
    Field,
    count,
    energy,
    kilograms,
    ratio,
    temperature,
    text,
    watts,
)
from lepton_etl.fields.words import ENERGY_BASIS, PUE_BASIS

FIELDS: Final[tuple[Field, ...]] = (
    count("node_count", "Nodes that the inventory expects."),
    energy(
        "it_energy_kwh", "Energy into IT equipment, measured plus imputed; null below the coverage limit."
    ),
    energy("it_energy_measured_kwh", "The part from accepted readings."),
    energy("it_energy_imputed_kwh", "The part filled by a model; null while there is none."),
    energy("it_energy_lower_kwh", "Lower end of the 90 % interval by sensor gain and resolution."),
    energy("it_energy_upper_kwh", "Upper end of the 90 % interval by sensor gain and resolution."),
    energy("gpu_energy_kwh", "Energy of GPU boards, all devices; never added to the node."),
    ratio("coverage_ratio", "Observed over expected, weighted by rated power where every node has one."),
    ratio("node_second_coverage_ratio", "Observed node-seconds over expected node-seconds."),
    energy("idle_energy_kwh", "Energy of node-intervals without work; see idle_basis."),
    text(
        "idle_basis",
        "How idle was told: by utilisation below the limit, by jobs, or not.",
        ("utilisation", "jobs", "none"),
    ),
    energy("facility_energy_kwh", "IT energy plus the share of overheads."),
    energy("facility_metered_kwh", "Energy at the utility meter."),
    energy("it_metered_kwh", "Energy at the meter nearest to the IT input."),
    Field(
        "pue_ratio",
        DOUBLE,
        "dimensionless",
        "Facility energy over IT energy, a ratio of sums.",
        ge=1.0,
        le=100.0,
    ),
    text("pue_basis", "Where the PUE comes from.", PUE_BASIS),
    Field("pue_category", INT, None, "1 at UPS output, 2 at PDU output, 3 at IT input.", ge=1, le=3),
    ratio(
        "cpu_utilisation_ratio",
        "Mean CPU utilisation of powered-on servers that are not mostly accelerators.",
    ),
    ratio("gpu_utilisation_ratio", "Mean GPU utilisation."),
    watts("peak_power_w", "Maximum of the summed interval means."),
    temperature("inlet_temp_p99_c", "99th percentile of inlet temperature over node-intervals."),
    kilograms(
        "emissions_location_kgco2e", "Location-based: facility energy by the hour's direct average intensity."
    ),
    kilograms("emissions_upstream_kgco2e", "Life-cycle minus direct intensity, on the same energy."),
    kilograms("emissions_market_kgco2e", "Market-based; null while no contract table exists."),
    energy("emissions_missing_kwh", "Facility energy in hours without an intensity."),
    text("emissions_basis", "Where emissions come from.", ("measured", "estimated", "partial", "none")),
    kilograms(
        "embodied_kgco2e", "Embodied carbon; of a node in the inventory, of a period its amortised share."
    ),
    Field("water_l", DOUBLE, "liter", "Water drawn.", ge=0.0, le=1e12),
    text("energy_basis", "What the energy figure rests on.", ENERGY_BASIS),
    text("facility_basis", "What the facility figure rests on.", PUE_BASIS),
    text("status", "Life of a published figure.", ("provisional", "closed", "restated")),
)
