"""Market-based Scope 2: instruments against a reporting year's grid energy, and the factor that is left.

Order: certificate, contract, supplier, then the residual mix, then a grid average that is flagged. What is matched
never exceeds consumption. Until the year is closed its annual volumes are spread by load, so a figure of a night is
provisional. Hourly matching has no place here; it feeds the CFE score (indicators/carbon_free.py).
Source: GHG Protocol Scope 2 Guidance (2015), table 6.3 and chapter 7 (quality criteria).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import polars as pl

from lepton_etl.carbon.emissions import IntensityError, energy_error_ratio
from lepton_etl.config.sections import CarbonSettings
from lepton_etl.energy.exact_sums import ends, exact_sum
from lepton_etl.registers.factors import FactorSet
from lepton_etl.registers.instruments import RANKS
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM

_UNIT: Final = "g/kWh"
RENEWABLE: Final = ("wind", "solar", "hydro", "geothermal", "biomass")


@dataclass(frozen=True, slots=True)
class Instrument:
    """One row of silver/instrument. `volume_kwh` None (a supplier's tariff): all that is left."""

    instrument_id: str
    instrument_type: str
    zone_id: str
    volume_kwh: float | None
    vintage_year: int | None
    intensity_g_per_kwh: float
    technology: str | None
    retirement_id: str | None
    valid_from: datetime
    valid_to: datetime | None


@dataclass(frozen=True, slots=True)
class Match:
    """What one instrument covers in a year; `reason` says why it covers nothing."""

    instrument: Instrument
    matched_kwh: float
    balance_kwh: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class MarketMix:
    """The factors that a year's grid energy takes.

    `matched_ratio` (0..1) of the consumption takes `matched_g_per_kwh`, the rest `rest_g_per_kwh` or, where that
    is None, the location-based intensity of each hour. `more_matched_ratio` and `more_g_per_kwh` say the same of one
    more kWh of the year: nothing of it is matched while a rest is left, else all by the instrument that is not used up.
    """

    year: int
    consumption_kwh: float
    matches: tuple[Match, ...]
    matched_ratio: float
    matched_g_per_kwh: float
    rest_g_per_kwh: float | None
    basis: str
    more_matched_ratio: float = 0.0
    more_g_per_kwh: float = 0.0


def instruments_of(rows: Iterable[Mapping[str, Any]]) -> tuple[Instrument, ...]:
    """Rows of silver/instrument as instruments."""
    return tuple(
        Instrument(
            row["instrument_id"], row["instrument_type"], row["zone_id"], row["volume_kwh"], row["vintage_year"],
            row["instrument_intensity_gco2e_per_kwh"], row["technology"], row["retirement_id"],
            row["valid_from"], row["valid_to"],
        )
        for row in rows
    )  # fmt: skip


def market_mix(
    instruments: Sequence[Instrument],
    *,
    year: int,
    zone_id: str,
    consumption_kwh: float,
    residual_g_per_kwh: float | None,
    average_g_per_kwh: float | None = None,
    is_expected: bool = False,
) -> MarketMix:
    """Match the instruments of a market with a year's grid energy (kWh, >= 0), best rank first.

    Within a rank the order is that of `instrument_id`, so the same register gives the same balance. A
    certificate needs the year's vintage and a retirement; a contract counts with the share of its span that
    lies in the year. `is_expected`: the consumption is planned, so that it does not err with the hours.
    """
    left, matches = consumption_kwh, []
    for one in sorted(instruments, key=lambda i: (RANKS.index(i.instrument_type), i.instrument_id)):
        reason = _unusable(one, year, zone_id)
        volume = None if one.volume_kwh is None else one.volume_kwh * _share_of_year(one, year)
        matched = 0.0 if reason else left if volume is None else min(volume, left)
        left -= matched
        balance = None if one.volume_kwh is None else one.volume_kwh - matched
        if not reason and not matched:
            reason = "nothing left to match"
        matches.append(Match(one, matched, balance, reason))
    total = consumption_kwh - left
    grams = sum(match.matched_kwh * match.instrument.intensity_g_per_kwh for match in matches)
    ratio = min(total / consumption_kwh, 1.0) if consumption_kwh > 0 else 0.0
    matched_g = grams / total if total > 0 else 0.0
    rest = residual_g_per_kwh if residual_g_per_kwh is not None else average_g_per_kwh
    return MarketMix(
        year, consumption_kwh, tuple(matches), ratio, matched_g, rest,
        _basis(matches, ratio, residual_g_per_kwh is not None),
        *((ratio, matched_g) if is_expected else _of_one_more(matches, left)),
    )  # fmt: skip


def mix_of(
    carbon: CarbonSettings,
    grid_zone: str | None,
    factors: FactorSet,
    instruments: Iterable[Mapping[str, Any]],
    year: int,
    drawn: pl.DataFrame,
    until: datetime,
) -> MarketMix | None:
    """Return a year's mix by the hours or days `drawn` with `grid_import_kwh`, and the rows of silver/instrument.

    `until` is the first instant without data. None where the market is not named (nobody knows which residual mix
    holds), and where it is known neither what was drawn nor what is expected.
    """
    zone, expected_kwh = carbon.market_zone or grid_zone, carbon.annual_consumption_kwh
    drawn_kwh = drawn.select(exact_sum(pl.col("grid_import_kwh"))).item()
    if zone is None or (drawn_kwh is None and expected_kwh is None):
        return None
    on = min((until - timedelta(seconds=1)).date(), date(year, 12, 31))
    residual = factors.find("residual_mix", valid_on=on, zone_id=zone)
    average = carbon.average_zone and factors.find(
        "grid_average", valid_on=on, zone_id=carbon.average_zone, intensity_basis="direct"
    )
    consumption_kwh = annual_kwh(drawn_kwh or 0.0, year, until, expected_kwh)
    return market_mix(
        instruments_of(instruments),
        year=year,
        zone_id=zone,
        consumption_kwh=consumption_kwh,
        is_expected=consumption_kwh == expected_kwh,
        residual_g_per_kwh=residual.to(_UNIT) if residual else None,
        average_g_per_kwh=average.to(_UNIT) if average else None,
    )


def annual_kwh(to_date_kwh: float, year: int, until: datetime, expected_kwh: float | None) -> float:
    """The grid energy that a year's volumes are spread over: the whole, once it is known.

    Before the year's end: what is expected, or the year to date extrapolated by time, and never less than what
    was drawn already. `until` is the first instant without data.
    """
    start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    if until >= end:
        return to_date_kwh
    if expected_kwh is not None:
        return max(expected_kwh, to_date_kwh)
    elapsed = (until - start) / (end - start)
    return to_date_kwh / elapsed if elapsed > 0 else to_date_kwh


def market_emissions(
    cluster_hours: pl.DataFrame, mixes: Sequence[MarketMix], error: IntensityError | None = None
) -> pl.DataFrame:
    """Add `emissions_market_kgco2e` and `market_basis` to cluster hours that have `grid_import_kwh`.

    Each hour takes the mix of its reporting year; an hour of a year without one, or whose rest has no factor,
    stays null with basis `none`. Never added to, nor compared by the hour with, the location-based figure.
    Interval, 90 %: the error of the energy, by what one more kWh would emit (a matched volume does not grow with it),
    and that of the rest's factor, in quadrature; an instrument's factor is agreed and has none. Null without `error`.
    """
    year, hourly = pl.col("hour_start").dt.year(), pl.col("carbon_intensity_gco2e_per_kwh")
    grams, basis = pl.lit(None, pl.Float64), pl.lit(None, pl.String)
    marginal = unmatched = grams
    for mix in mixes:
        rest = hourly if mix.rest_g_per_kwh is None else pl.lit(mix.rest_g_per_kwh)
        blended = pl.lit(mix.matched_ratio * mix.matched_g_per_kwh)
        if mix.matched_ratio < 1:
            blended = blended + (1 - mix.matched_ratio) * rest
        more = pl.lit(mix.more_matched_ratio * mix.more_g_per_kwh)
        if mix.more_matched_ratio < 1:
            more = more + (1 - mix.more_matched_ratio) * rest
        of_rest = rest * (1 - mix.matched_ratio) if mix.matched_ratio < 1 else pl.lit(0.0)
        of_year = year == mix.year
        marginal = pl.when(of_year).then(more).otherwise(marginal)
        unmatched = pl.when(of_year).then(of_rest).otherwise(unmatched)
        grams = pl.when(of_year).then(blended).otherwise(grams)
        basis = pl.when(year == mix.year).then(pl.lit(mix.basis)).otherwise(basis)
    drawn = pl.col("grid_import_kwh") / GRAMS_PER_KILOGRAM
    kilograms = drawn * grams
    by_factor = unmatched * (error.of_hour() if error else pl.lit(None, pl.Float64))
    half = drawn * ((energy_error_ratio() * marginal).pow(2) + by_factor.pow(2)).sqrt()
    return cluster_hours.with_columns(
        kilograms.alias("emissions_market_kgco2e"),
        *ends("emissions_market_kgco2e", kilograms, half),
        pl.when(kilograms.is_null()).then(pl.lit("none")).otherwise(basis).alias("market_basis"),
    )


def market_rows(mix: MarketMix, site_id: str, status: str) -> list[dict[str, Any]]:
    """The rows of gold/market_year of one year."""
    return [
        {
            "site_id": site_id,
            "reporting_year": mix.year,
            "instrument_id": match.instrument.instrument_id,
            "instrument_type": match.instrument.instrument_type,
            "volume_kwh": match.instrument.volume_kwh,
            "consumption_kwh": mix.consumption_kwh,
            "matched_kwh": match.matched_kwh,
            "balance_kwh": match.balance_kwh,
            "instrument_reason": match.reason,
            "status": status,
        }
        for match in mix.matches
    ]


def _of_one_more(matches: Sequence[Match], left_kwh: float) -> tuple[float, float]:
    """The matched share of one more kWh and its g/kWh: by the first usable instrument that has something left."""
    open_ones = [one for one in matches if one.matched_kwh > 0 and one.balance_kwh != 0]
    if left_kwh > 0 or not open_ones:
        return 0.0, 0.0
    return 1.0, open_ones[0].instrument.intensity_g_per_kwh


def _unusable(one: Instrument, year: int, zone_id: str) -> str | None:
    if one.zone_id != zone_id:
        return f"market {one.zone_id}, not {zone_id}"
    if one.instrument_type == "certificate":
        if one.vintage_year != year:
            return f"vintage {one.vintage_year}, not {year}"
        if one.retirement_id is None:
            return "not retired"
    return None if _share_of_year(one, year) > 0 else f"not valid in {year}"


def _share_of_year(one: Instrument, year: int) -> float:
    """The share of the volume that belongs to the year: all of a certificate's, of others by the span."""
    if one.instrument_type == "certificate" or one.valid_to is None:
        begins = one.instrument_type == "certificate" or one.valid_from < datetime(year + 1, 1, 1, tzinfo=UTC)
        return 1.0 if begins else 0.0
    begin = max(one.valid_from, datetime(year, 1, 1, tzinfo=UTC))
    end = min(one.valid_to, datetime(year + 1, 1, 1, tzinfo=UTC))
    return max((end - begin) / (one.valid_to - one.valid_from), 0.0)


def _basis(matches: Sequence[Match], ratio: float, has_residual: bool) -> str:
    used = {match.instrument.instrument_type for match in matches if match.matched_kwh > 0}
    if ratio < 1 and not has_residual:
        return "residual_mix_missing"
    if ratio < 1:
        used.add("residual_mix")
    return used.pop() if len(used) == 1 else "mixed"
