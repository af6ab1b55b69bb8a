"""Write the factor tables that are made from open data: conf/factors/grid_average.csv, electricity_water.csv.

Reads LEPTON_REAL_DATA (default ../shared/data) and the file that is named as argument, average-intensities.json of
thegreenwebfoundation/co2.js (data/output); without it Ember's rows stay. Also prints the error of a grid hour that its
publisher estimated, which stands by hand in conf/factors/grid_intensity_uncertainty.csv.
"""

import csv
import json
import os
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from lepton_etl.registers.factors import load_factors

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LEPTON_REAL_DATA", ROOT / ".." / "shared" / "data"))
TARGET = ROOT / "conf" / "factors"
COMMON = ("value", "unit", "source", "licence", "valid_from", "valid_to", "unchecked")
EMBER = "Ember yearly electricity data, by thegreenwebfoundation/co2.js"
ZONES = {"CISO": "US-CAL-CISO", "ERCO": "US-TEX-ERCO", "PJM": "US-MIDA-PJM", "NYIS": "US-NY-NYIS"}
# A zone whose fuels have no water factor for more than this share of the energy gets no row.
LEAST_KNOWN_SHARE = 0.9


def year(of: int) -> tuple[str, str, str]:
    return date(of, 1, 1).isoformat(), date(of + 1, 1, 1).isoformat(), ""


def grid_averages() -> Iterable[tuple[Any, ...]]:
    """Yearly location-based averages: US states in lb/MWh as EPA publishes them, countries in g/kWh."""
    folder = DATA / "codecarbon-factors"
    states = json.loads((folder / "usa_emissions_2023.json").read_text(encoding="utf-8"))
    egrid = "EPA eGRID2023, state annual CO2 equivalent total output emission rate (STC2ERTA)"
    for row in states.values():
        if "emissions" in row and len(row["regionCode"]) == 2:
            zone = f"US-{row['regionCode']}"
            yield zone, "direct", row["emissions"], "lb/MWh", egrid, "public domain", *year(2023)
    countries = json.loads((folder / "global_energy_mix.json").read_text(encoding="utf-8"))
    world = "Our World in Data from Ember and Energy Institute, yearly mix by CodeCarbon"
    for code, row in countries.items():
        if row["year"] >= 2021 and row.get("carbon_intensity"):
            yield code, "lifecycle", row["carbon_intensity"], "g/kWh", world, "CC-BY-4.0", *year(row["year"])
    for code, intensity, of in ember():
        if of > countries.get(code, {}).get("year", 0):
            yield code, "lifecycle", intensity, "g/kWh", EMBER, "CC-BY-SA-4.0", *year(of)


def ember() -> Iterable[tuple[str, float, int]]:
    """Country, life-cycle intensity in g/kWh and year: of the named file, else of the rows that stand already."""
    if len(sys.argv) > 1:
        for row in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")).values():
            if row["country_code"]:
                yield row["country_code"], float(row["emissions_intensity_gco2_per_kwh"]), row["year"]
        return
    with (TARGET / "grid_average.csv").open(encoding="utf-8", newline="") as file:
        for known in csv.DictReader(file):
            if known["source"] == EMBER:
                yield known["zone_id"], float(known["value"]), int(known["valid_from"][:4])


def electricity_water() -> Iterable[tuple[Any, ...]]:
    """Water consumed per kWh generated in a zone: EIA-930 energy by fuel and the medians by fuel."""
    factors = load_factors(TARGET)
    source = "EIA-930 net generation by fuel 2022 with conf/factors/fuel_water.csv"
    for code, zone in ZONES.items():
        hours = pl.read_csv(DATA / "grid-ci-eia930-2022" / f"{code}_NG_avgCI.csv.gz")
        fuels = hours.drop("timestamp", "avg_CI").sum().row(0, named=True)
        known = {
            fuel: found
            for fuel in fuels
            if (found := factors.find("fuel_water", fuel=fuel, valid_on=date(2022, 1, 1)))
        }
        mwh = sum(fuels[fuel] for fuel in known)
        if mwh >= LEAST_KNOWN_SHARE * sum(fuels.values()):
            litres = sum(fuels[fuel] * factor.to("L/MWh") for fuel, factor in known.items())
            yield zone, round(litres / mwh / 1000, 4), "L/kWh", source, "public domain", *year(2022)


def estimated_hour_error() -> float:
    """Relative RMS error of the mean of a month's same hours as an estimate of one hour, five zones of 2023.

    That is what the publisher's time slicer does where it lacks data.
    """
    errors = []
    for file in sorted((DATA / "grid-ci-electricitymaps").glob("*.csv.gz")):
        hours = pl.read_csv(file).select(
            pl.col("Datetime (UTC)").str.to_datetime().alias("t"), pl.nth(4).alias("g")
        )
        slot = pl.col("g").mean().over(pl.col("t").dt.month(), pl.col("t").dt.hour())
        errors.append(hours.select(((pl.col("g") - slot) ** 2).mean().sqrt() / pl.col("g").mean()).item())
    return float(max(errors))


def write(name: str, keys: tuple[str, ...], found: Iterable[tuple[Any, ...]]) -> None:
    rows = sorted(found, key=lambda row: (row[: len(keys)], row[-3]))
    with (TARGET / name).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((*keys, *COMMON))
        writer.writerows(rows)


if __name__ == "__main__":
    write("grid_average.csv", ("zone_id", "intensity_basis"), grid_averages())
    write("electricity_water.csv", ("zone_id",), electricity_water())
    sys.stdout.write(f"relative error of an estimated hour, worst zone: {estimated_hour_error():.3f}\n")
