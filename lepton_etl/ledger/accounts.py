"""Hours of meters and of IT -> the accounts of each site-hour, bottom-up, as terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl

from lepton_etl.fields.words import BOUNDARY
from lepton_etl.ledger.inputs import (
    HOUR,
    IT_ACCOUNTS,
    MEASURED,
    MODELLED,
    NODES_TERM,
    NOTHING_KWH,
    PARTIAL,
    SHARED_LOADS,
    SIGNIFICANT_SIGMAS,
    SILENT,
    UNMETERED,
)
from lepton_etl.ledger.parts import PARTS, basis_rows, meter_roles, part_terms, role_sums, signed_terms
from lepton_etl.ledger.terms import ACCOUNT, SOURCE, TERMS


@dataclass(frozen=True, slots=True)
class Accounts:
    """The terms of every known account, and how each account of each hour is known.

    bases: site_id, hour_start, account, account_basis (measured, modelled, partial, silent, unmetered), detail.
    """

    terms: pl.DataFrame
    bases: pl.DataFrame


def site_accounts(meters: pl.DataFrame, it_hours: pl.DataFrame, modelled: pl.DataFrame) -> Accounts:
    """METERS, IT_HOURS and MODELLED_HOURS -> the sources and accounts of each site-hour in IT_HOURS.

    No account is a remainder. A loss is what goes into a stage minus what comes out of it; a part whose meters are
    silent or missing is taken from the model fitted on earlier days, else it is unknown, and the residual shows it.
    Source: definitions.md section 4.
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
        basis_rows(it_hours, pl.lit(account), _known(), pl.lit(None))
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


def _known() -> pl.Expr:
    return pl.when("is_known").then(pl.lit(MEASURED)).otherwise(pl.lit(SILENT))


def _unattributed(terms: pl.DataFrame, roles: pl.DataFrame, sums: pl.DataFrame) -> pl.DataFrame:
    """What the IT meter saw beyond every owner, where sensor errors do not explain it.

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
        .agg(pl.col("value_kwh", "sigma_kwh").sum())
    )
    total = pl.col("value_kwh").sum().over(HOUR)
    sigma = pl.col("sigma_kwh").pow(2).sum().sqrt().over(HOUR)
    return by_term.filter(total > SIGNIFICANT_SIGMAS * sigma).select(list(TERMS))


def _by_account(bases: pl.DataFrame) -> pl.DataFrame:
    """One basis an account: the parts' own where they agree, `partial` where some parts are unknown."""
    known = pl.col("account_basis").is_in((MEASURED, MODELLED))
    rank = pl.col("account_basis")
    return (
        bases.group_by(*HOUR, "account")
        .agg(
            pl.when(known.all())
            .then(pl.when((rank == MEASURED).all()).then(pl.lit(MEASURED)).otherwise(pl.lit(MODELLED)))
            .when(known.any())
            .then(pl.when((rank == SILENT).any()).then(pl.lit(SILENT)).otherwise(pl.lit(PARTIAL)))
            .when((rank == SILENT).any())
            .then(pl.lit(SILENT))
            .otherwise(pl.lit(UNMETERED))
            .first()
            .alias("account_basis"),
            pl.col("detail").drop_nulls().unique().sort().str.join("; ").alias("detail"),
        )
        .sort(*HOUR, "account")
    )
