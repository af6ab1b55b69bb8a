"""Book hours of meters and of IT into the accounts of each site-hour, bottom-up, as sums of terms.

A term is what one source of error says in one hour: a meter, the nodes' sensors, a fitted curve. An account
is a sum of terms with signs; the residual is a sum of accounts with signs. Errors of one term add linearly,
with their signs, over accounts and over hours (a meter's gain is wrong the same way all day); different terms
are independent and add in quadrature. A meter that stands in two accounts with opposite signs thus cancels in
their sum.

What a meter measures depends on the role that it plays; where it is silent or missing, a model or a
transformer's nameplate stands in for it, with its own error. A meter's error is that of its accuracy class.
Source: JCGM 100:2008 (GUM) 5.2.2, with correlation +1 within a term and 0 between terms.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import polars as pl

from lepton_etl.facility.meter_hours import class_pct, class_sigma_ratio
from lepton_etl.facility.modelled_meters import CLASS_DEFAULT, PART_HOURS
from lepton_etl.schema.common import BOUNDARY, COOLING_POINTS


def meter_errors(hours: pl.DataFrame) -> pl.DataFrame:
    """Hours of meters (energy_kwh, point, class_pct) with `sigma_kwh` by their class and who states it."""
    stated = pl.when(pl.col("class_pct").is_null()).then(pl.lit(", assumed")).otherwise(pl.lit(""))
    return hours.with_columns(
        (pl.col("energy_kwh") * class_sigma_ratio()).alias("sigma_kwh"),
        pl.concat_str(pl.lit("meter class "), class_pct(), stated).alias("class_basis"),
    )


def modelled_hours(parts: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """What stands in for silent or missing meters, PART_HOURS in one; the first that speaks for a part is taken."""
    frames = [pl.DataFrame(schema=PART_HOURS), *(part.cast(PART_HOURS) for part in parts)]
    return pl.concat(frames).unique([*HOUR, "part"], keep="first", maintain_order=True)


SOURCE: Final = "source"
ACCOUNT: Final = "account"

TERMS: Final = pl.Schema(
    {
        "site_id": pl.String(),
        "hour_start": pl.Datetime("us", "UTC"),
        "side": pl.String(),
        "account": pl.String(),
        "term": pl.String(),
        "value_kwh": pl.Float64(),
        "sigma_kwh": pl.Float64(),
    }
)
"""One row an account and term; `value_kwh` and `sigma_kwh` carry the sign with which the term enters the account."""


def combine(terms: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """Terms -> `by`, `value_kwh`, `sigma_kwh` (one standard deviation, >= 0) of their sums."""
    # Sorted: a sum of doubles changes with the order in which joins deliver rows, and with it the table.
    ordered = terms.sort(*by, "term", "value_kwh")
    by_term = ordered.group_by(*by, "term", maintain_order=True).agg(
        pl.col("value_kwh").sum(), known_sum(pl.col("sigma_kwh"))
    )
    return by_term.group_by(by, maintain_order=True).agg(
        pl.col("value_kwh").sum(), known_sum(pl.col("sigma_kwh").pow(2)).sqrt()
    )


def known_sum(errors: pl.Expr) -> pl.Expr:
    """Sum of errors in their order; one that nobody knows leaves the error of the sum unknown, not smaller."""
    return pl.when(errors.null_count() == 0).then(errors.sum())


def residual_terms(terms: pl.DataFrame) -> pl.DataFrame:
    """Sources minus accounts, as terms: what the residual is a sum of."""
    sign = pl.when(pl.col("side") == SOURCE).then(1.0).otherwise(-1.0)
    return terms.with_columns(pl.col("value_kwh") * sign, pl.col("sigma_kwh") * sign)


# IT equipment that serves all tenants, by what its feed `serves`.
SHARED_LOADS: Final = {"network": "data_transfer", "storage": "it_overhead", "service": "it_overhead"}
IT_ACCOUNTS: Final = ("jobs", "idle", "chassis_shared", "data_transfer", "it_overhead", "unattributed")
OVERHEADS: Final = ("conversion_loss", "cooling", "management")

MEASURED: Final = "measured"
DERIVED: Final = "derived"
MODELLED: Final = "modelled"
ASSUMED: Final = "assumed"
KNOWN: Final = (MEASURED, MODELLED, DERIVED, ASSUMED)
PARTIAL: Final = "partial"
SILENT: Final = "silent"
UNMETERED: Final = "unmetered"

NODES_TERM: Final = "nodes"
# What is nothing but the difference of two sums of doubles is nothing.
NOTHING_KWH: Final = 1e-9
# A rest of the IT meter within three standard deviations is sensor error, and belongs to the residual.
SIGNIFICANT_SIGMAS: Final = 3.0

HOUR: Final = ["site_id", "hour_start"]

METERS: Final = pl.Schema(
    {
        "site_id": pl.String(),
        "hour_start": pl.Datetime("us", "UTC"),
        "meter_id": pl.String(),
        "point": pl.String(),
        "serves": pl.String(),
        "direction": pl.Float64(),
        "energy_kwh": pl.Float64(),
        "sigma_kwh": pl.Float64(),
        "noise_kwh": pl.Float64(),
        "class_basis": pl.String(),
    }
)
"""Hours of top-level electricity meters; `energy_kwh` is null where the meter was silent.

`sigma_kwh` is the error by the meter's class, `class_basis` who states it, `noise_kwh` that of resolution and sampling.
"""

IT_HOURS: Final = pl.Schema(
    {
        "site_id": pl.String(),
        "hour_start": pl.Datetime("us", "UTC"),
        "jobs_kwh": pl.Float64(),
        "idle_kwh": pl.Float64(),
        "storage_kwh": pl.Float64(),
        "network_kwh": pl.Float64(),
        "service_kwh": pl.Float64(),
        "chassis_shared_kwh": pl.Float64(),
        "unowned_kwh": pl.Float64(),
        "unlisted_kwh": pl.Float64(),
        "sigma_kwh": pl.Float64(),
        "is_known": pl.Boolean(),
        "jobs_basis": pl.String(),
        "idle_basis": pl.String(),
    }
)
"""Energy of nodes by owner.

`unowned_kwh` is what nodes without job accounting draw beyond idle, `unlisted_kwh` that of nodes outside the inventory;
`sigma_kwh` is the error of the sum (null: not known), `is_known` whether every expected node has an energy. The bases
say of how many compute nodes an owner is known (energy.owners); null is of all.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of an account: the roles of meters it is the signed sum of.

    A loss is booked by its nameplate or by the curve fitted on earlier days: the difference of today's meters
    (`derived`) could never show in the residual, and would move with any feed that falls silent. So it is taken only
    where there is no curve, and the range of the equipment's class (`assumed`) only where a side is not metered either.
    """

    account: str
    name: str
    roles: tuple[tuple[str, float], ...]

    @property
    def is_loss(self) -> bool:
        return self.account == "conversion_loss"


PARTS: Final = (
    # On-site sources join ahead of the transformer's low-voltage meter.
    Part("conversion_loss", "transformer", (*BOUNDARY.items(), ("transformer_out", -1))),
    Part("conversion_loss", "ups", (("ups_in", 1), ("ups_out", -1))),
    Part("conversion_loss", "pdu", (("ups_out", 1), ("pdu_out", -1))),
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
    curves = stand_ins.filter(pl.col("basis").ne_missing(CLASS_DEFAULT))
    is_metered = ((pl.col("present") == len(needed)) & pl.col("complete")).fill_null(False)
    if part.is_loss:
        is_metered &= ~pl.struct(HOUR).is_in(curves.select(pl.struct(HOUR)).to_series().implode())
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
    account, name = pl.lit(part.account), pl.lit(f"{part.name}: ")
    silent = name + pl.col("silent").list.join(", ")
    is_assumed = pl.col("basis").eq_missing(CLASS_DEFAULT)
    bases = [
        basis_rows(metered, account, pl.lit(DERIVED if part.is_loss else MEASURED),
                   name + "difference of its meters" if part.is_loss else pl.lit(None)),
        basis_rows(filled, account, pl.when(is_assumed).then(pl.lit(ASSUMED)).otherwise(pl.lit(MODELLED)),
                   name + pl.col("basis").fill_null("model")),
        basis_rows(unknown, account, pl.when(was_metered).then(pl.lit(SILENT)).otherwise(pl.lit(UNMETERED)),
                   pl.when(was_metered).then(silent).otherwise(pl.lit(part.name))),
    ]  # fmt: skip
    return pl.concat([from_meters, from_model]).cast(TERMS), pl.concat(bases)


@dataclass(frozen=True, slots=True)
class Accounts:
    """The terms of every known account, and how each account of each hour is known.

    bases: site_id, hour_start, account, account_basis (KNOWN, partial, silent, unmetered), detail.
    """

    terms: pl.DataFrame
    bases: pl.DataFrame


def site_accounts(meters: pl.DataFrame, it_hours: pl.DataFrame, modelled: pl.DataFrame) -> Accounts:
    """METERS, IT_HOURS and PART_HOURS -> the sources and accounts of each site-hour in IT_HOURS.

    No account is a remainder. A part whose meters are silent or missing is taken from the model fitted on earlier days,
    else it is unknown, and the residual shows it; `Part` says what a loss is taken from.
    Source: docs/definitions.md section 4.
    """
    hours = it_hours.select(HOUR)
    roles = meter_roles(meters).join(hours, on=HOUR, how="semi")
    sums = role_sums(roles)
    terms = [_source_terms(roles, sums)]
    bases = [_source_bases(hours, sums)]
    shared: dict[str, pl.DataFrame] = {}
    for part in PARTS:
        found, basis = part_terms(part, hours, roles, sums, modelled)
        if part.account in SHARED_LOADS.values():
            # No feed of its own is no gap: what such equipment draws shows as unattributed, or as residual.
            basis = basis.filter(pl.col("account_basis") != UNMETERED)
            shared[part.account] = basis
        terms.append(found)
        bases.append(basis)
    nodes, node_bases = _node_terms(it_hours, shared)
    terms.append(nodes)
    bases += node_bases
    all_terms = pl.concat(terms)
    rest = _unattributed(all_terms, roles, sums)
    return Accounts(pl.concat([all_terms, rest]), _by_account(pl.concat(bases)))


def _source_terms(roles: pl.DataFrame, sums: pl.DataFrame) -> pl.DataFrame:
    """Each source as one account; one with a silent meter is unknown."""
    complete = sums.filter(pl.col("complete")).select(*HOUR, "role")
    parts = [
        signed_terms(roles.join(complete, on=[*HOUR, "role"], how="semi"), SOURCE, name, {name: float(sign)})
        for name, sign in BOUNDARY.items()
    ]
    return pl.concat(parts).cast(TERMS)


def _source_bases(hours: pl.DataFrame, sums: pl.DataFrame) -> pl.DataFrame:
    present = sums.filter(pl.col("role").is_in(list(BOUNDARY)))
    no_utility = hours.join(present.filter(pl.col("role") == "utility"), on=HOUR, how="anti")
    return pl.concat(
        [
            basis_rows(present, pl.col("role"), pl.when("complete").then(pl.lit(MEASURED)).otherwise(pl.lit(SILENT)),
                   pl.col("silent").list.join(", ")),
            basis_rows(no_utility, pl.lit("utility"), pl.lit(UNMETERED), pl.lit("no utility meter")),
        ]
    )  # fmt: skip


def _node_terms(
    it_hours: pl.DataFrame, shared: dict[str, pl.DataFrame]
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Energy of nodes by owner, each with its part of the nodes' common error.

    Storage, network and service nodes are counted by their sensors only where no feed of theirs is metered.
    """
    owners: list[tuple[str, str]] = [
        ("jobs", "jobs_kwh"),
        ("idle", "idle_kwh"),
        ("chassis_shared", "chassis_shared_kwh"),
        ("unattributed", "unowned_kwh"),
        ("unattributed", "unlisted_kwh"),
    ]
    frames = [(account, it_hours, column) for account, column in owners]
    bases = [
        basis_rows(it_hours, pl.lit(account), _known(pl.col(f"{account}_basis")), pl.lit(None))
        for account in ("jobs", "idle")
    ]  # fmt: skip
    for account, columns in (
        ("data_transfer", ("network_kwh",)),
        ("it_overhead", ("storage_kwh", "service_kwh")),
    ):
        by_sensor = it_hours.join(shared[account], on=HOUR, how="anti")
        frames += [(account, by_sensor, column) for column in columns]
        spoke = by_sensor.filter(pl.any_horizontal(*(pl.col(column) > 0 for column in columns)))
        bases.append(basis_rows(spoke, pl.lit(account), pl.lit(MEASURED), pl.lit("node sensors")))
    total = pl.sum_horizontal(*(pl.col(c) for c in _NODE_COLUMNS))
    terms = [
        frame.filter(pl.col(column) > NOTHING_KWH).select(
            *HOUR, pl.lit(ACCOUNT).alias("side"), pl.lit(account).alias("account"),
            pl.lit(NODES_TERM).alias("term"), pl.col(column).alias("value_kwh"),
            (pl.col("sigma_kwh") * pl.col(column) / total).alias("sigma_kwh"),
        )
        for account, frame, column in frames
    ]  # fmt: skip
    return pl.concat(terms).cast(TERMS), bases


_NODE_COLUMNS: Final = (
    "jobs_kwh", "idle_kwh", "storage_kwh", "network_kwh", "service_kwh", "unowned_kwh", "unlisted_kwh",
)  # fmt: skip


def _known(of_owner: pl.Expr) -> pl.Expr:
    """The basis of an owner's account: none without accounting, else silent nodes come before those nobody accounts."""
    return (
        pl.when(of_owner == UNMETERED).then(of_owner)
        .when(~pl.col("is_known")).then(pl.lit(SILENT))
        .otherwise(of_owner.fill_null(MEASURED))
    )  # fmt: skip


def is_elsewhere() -> pl.Expr:
    """Whether what an account lacks stands in another one: energy of nodes without accounting is unattributed."""
    return pl.col("account").is_in(("jobs", "idle")) & pl.col("account_basis").is_in((UNMETERED, PARTIAL))


def _unattributed(terms: pl.DataFrame, roles: pl.DataFrame, sums: pl.DataFrame) -> pl.DataFrame:
    """What the IT meter saw beyond every owner, where sensor errors are known and do not explain it.

    The IT meter is the sum of the PDU feeds, else of the UPS outputs. With one feed silent nothing is said.
    """
    pdu = sums.filter(pl.col("role") == "pdu_out")
    ups = sums.filter(pl.col("role") == "ups_out").join(pdu, on=HOUR, how="anti")
    complete = pl.concat([pdu, ups]).filter(pl.col("complete"))
    it_meters = roles.join(complete, on=[*HOUR, "role"], how="semi")
    metered = signed_terms(it_meters, ACCOUNT, "unattributed", {"pdu_out": 1.0, "ups_out": 1.0})
    owned = terms.filter(pl.col("account").is_in(IT_ACCOUNTS)).join(complete, on=HOUR, how="semi")
    rest = pl.concat(
        [metered.cast(TERMS), owned.with_columns(
            pl.lit("unattributed").alias("account"), -pl.col("value_kwh"), -pl.col("sigma_kwh"))]
    )  # fmt: skip
    by_term = (
        rest.sort(*HOUR, "term", "value_kwh")
        .group_by(*HOUR, "side", "account", "term", maintain_order=True)
        .agg(pl.col("value_kwh").sum(), known_sum(pl.col("sigma_kwh")))
    )
    total = pl.col("value_kwh").sum().over(HOUR)
    sigma = known_sum(pl.col("sigma_kwh").pow(2)).sqrt().over(HOUR)
    return by_term.filter(total > SIGNIFICANT_SIGMAS * sigma).select(list(TERMS))


def _by_account(bases: pl.DataFrame) -> pl.DataFrame:
    """One basis an account: of parts that are all known the least sure one, `partial` where some are unknown."""
    basis = pl.col("account_basis")
    known = basis.is_in(KNOWN)
    some = known.any() | (basis == PARTIAL).any()
    worst = pl.lit(MEASURED)
    for name in (MODELLED, DERIVED, ASSUMED):
        worst = pl.when((basis == name).any()).then(pl.lit(name)).otherwise(worst)
    return (
        bases.group_by(*HOUR, "account")
        .agg(
            pl.when(known.all())
            .then(worst)
            .when(some)
            .then(pl.when((basis == SILENT).any()).then(pl.lit(SILENT)).otherwise(pl.lit(PARTIAL)))
            .when((basis == SILENT).any())
            .then(pl.lit(SILENT))
            .otherwise(pl.lit(UNMETERED))
            .first()
            .alias("account_basis"),
            pl.col("detail").drop_nulls().unique().sort().str.join("; ").alias("detail"),
        )
        .sort(*HOUR, "account")
    )
