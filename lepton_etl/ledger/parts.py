"""Parts of accounts from meters: the roles that meters play, and what stands in for silent ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from lepton_etl.fields.words import BOUNDARY, COOLING_POINTS
from lepton_etl.ledger.inputs import HOUR, MEASURED, MODELLED, SHARED_LOADS, SILENT, UNMETERED
from lepton_etl.ledger.terms import ACCOUNT, TERMS


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an account: the roles of meters it is the signed sum of.

    A part with `model_first` is booked by the curve fitted on earlier days as soon as there is one: a loss taken as the
    difference of today's meters could never show in the residual, and would move with any feed that falls silent.
    """

    account: str
    name: str
    roles: tuple[tuple[str, float], ...]
    model_first: bool = False


PARTS: Final = (
    # On-site sources join ahead of the transformer's low-voltage meter.
    Part("conversion_loss", "transformer", (*BOUNDARY.items(), ("transformer_out", -1))),
    Part("conversion_loss", "ups", (("ups_in", 1), ("ups_out", -1)), model_first=True),
    Part("conversion_loss", "pdu", (("ups_out", 1), ("pdu_out", -1)), model_first=True),
    Part("cooling", "cooling", (("cooling", 1),)),
    Part("management", "management", (("management", 1),)),
    Part("data_transfer", "data_transfer", (("data_transfer", 1),)),
    Part("it_overhead", "it_overhead", (("it_overhead", 1),)),
)  # fmt: skip
# A part may lack these meters: no export meter is no export.
_OPTIONAL_ROLES: Final = tuple(name for name in BOUNDARY if name != "utility")


def meter_roles(meters: pl.DataFrame) -> pl.DataFrame:
    """A meter once for each role it plays: a PDU feed of the network is PDU output and data transfer."""
    shared = pl.col("serves").replace_strict(SHARED_LOADS, default=None, return_dtype=pl.String)
    point = pl.col("point")
    at_point = (
        pl.when(point.is_in(COOLING_POINTS)).then(pl.lit("cooling"))
        .when(point == "other").then(pl.when(shared.is_null()).then(pl.lit("management")))
        .otherwise(point)
    )  # fmt: skip
    # A shared load metered before the PDU has its loss in it; at the PDU output or after it counts.
    as_load = pl.when(point.is_in(("pdu_out", "other"))).then(shared)
    both = [meters.with_columns(role.alias("role")) for role in (at_point, as_load)]
    return pl.concat(both).filter(pl.col("role").is_not_null())


def role_sums(roles: pl.DataFrame) -> pl.DataFrame:
    """Of each site, hour and role: whether all its meters spoke, and the names of those that did not."""
    silent = pl.col("energy_kwh").is_null()
    return roles.group_by(*HOUR, "role").agg(
        (~silent.any()).alias("complete"),
        pl.col("meter_id").filter(silent).sort().alias("silent"),
        pl.col("energy_kwh").sum(),
    )


def signed_terms(roles: pl.DataFrame, side: str, account: str, signs: dict[str, float]) -> pl.DataFrame:
    sign = pl.col("role").replace_strict(signs, default=None, return_dtype=pl.Float64)
    return roles.filter(pl.col("role").is_in(list(signs))).select(
        *HOUR,
        pl.lit(side).alias("side"),
        pl.lit(account).alias("account"),
        (pl.lit("meter:") + pl.col("meter_id")).alias("term"),
        (pl.col("energy_kwh") * sign).alias("value_kwh"),
        (pl.col("sigma_kwh") * sign).alias("sigma_kwh"),
    )


def basis_rows(frame: pl.DataFrame, account: pl.Expr, basis: pl.Expr, detail: pl.Expr) -> pl.DataFrame:
    return frame.select(
        *HOUR, account.alias("account"), basis.alias("account_basis"), detail.cast(pl.String).alias("detail")
    )


def part_terms(
    part: Part, hours: pl.DataFrame, roles: pl.DataFrame, sums: pl.DataFrame, modelled: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Terms of one part and its basis by hour: metered where every side is complete, modelled, or unknown."""
    signs = dict(part.roles)
    needed = [role for role in signs if role not in _OPTIONAL_ROLES]
    states = (
        sums.filter(pl.col("role").is_in(list(signs)))
        .group_by(HOUR)
        .agg(
            pl.col("role").is_in(needed).sum().alias("present"),
            pl.col("complete").all(),
            pl.col("silent").list.explode(keep_nulls=False, empty_as_null=False).unique().sort(),
        )
    )
    known = hours.join(states, on=HOUR, how="left")
    stand_ins = modelled.filter(pl.col("part") == part.name)
    is_metered = ((pl.col("present") == len(needed)) & pl.col("complete")).fill_null(False)
    if part.model_first:
        is_metered &= ~pl.struct(HOUR).is_in(stand_ins.select(pl.struct(HOUR)).to_series().implode())
    metered = known.filter(is_metered)
    others = known.filter(~is_metered)
    filled = others.join(stand_ins, on=HOUR, how="inner")
    unknown = others.join(stand_ins, on=HOUR, how="anti")
    from_meters = signed_terms(roles.join(metered, on=HOUR, how="semi"), ACCOUNT, part.account, signs)
    from_model = filled.select(
        *HOUR, pl.lit(ACCOUNT).alias("side"), pl.lit(part.account).alias("account"),
        pl.lit(f"model:{part.name}").alias("term"), pl.col("energy_kwh").alias("value_kwh"), "sigma_kwh",
    )  # fmt: skip
    was_metered = pl.col("present").fill_null(0) == len(needed)
    account = pl.lit(part.account)
    names = pl.lit(f"{part.name}: ") + pl.col("silent").list.join(", ")
    bases = [
        basis_rows(metered, account, pl.lit(MEASURED), pl.lit(None)),
        basis_rows(filled, account, pl.lit(MODELLED), pl.lit(part.name)),
        basis_rows(unknown, account, pl.when(was_metered).then(pl.lit(SILENT)).otherwise(pl.lit(UNMETERED)),
               pl.when(was_metered).then(names).otherwise(pl.lit(part.name))),
    ]  # fmt: skip
    return pl.concat([from_meters, from_model]).cast(TERMS), pl.concat(bases)
