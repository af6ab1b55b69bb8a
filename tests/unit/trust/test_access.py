"""A policy cannot give what no policy may: every one that is accepted keeps hosts and other tenants out."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.conf_files import conf_path
from lepton_etl.errors import ConfigurationError
from lepton_etl.schema.fields import FIELDS
from lepton_etl.schema.privacy import HOSTS, PERSONAL, privacy_class
from lepton_etl.schema.tables import TABLES
from lepton_etl.trust.access import (
    OUTSIDE,
    Policy,
    enough_people,
    own_rows,
    read_policy,
    seen_columns,
    seen_table,
)
from lepton_etl.trust.publishing import folder_of

SHIPPED: dict[str, Any] = yaml.safe_load(conf_path("policies/access.yaml").read_text())
DAY = date(2025, 6, 3)


def changed(audience: str, **keys: Any) -> dict[str, Any]:
    """The shipped policy with other keys of one audience."""
    audiences = SHIPPED["audiences"]
    return SHIPPED | {"audiences": audiences | {audience: audiences[audience] | keys}}


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (changed("public", classes=["public", "internal"]), "class public alone"),
        (changed("public", rows="all"), "rows enough_people is for the public"),
        (changed("public", min_people=None), "min_people goes with"),
        (changed("public", min_people=1), "min_people"),
        (changed("public", tables={"gold/tenant_day": {}}), "a row for each tenant_id"),
        (changed("public", tables={"gold/node_hour": {}}), "a row for each node_id"),
        (changed("tenant", tables={"gold/cluster_day": {}}), "no tenant_id"),
        (changed("tenant", tables={"gold/job_energy": {"also": []}}), "a row for each job_id"),
        (changed("tenant", tables={"gold/job_energy": {"also": ["job_id", "user"]}}), "no column user"),
        (changed("tenant", classes=["personal"]), "for the site's own people"),
        (
            changed("tenant", tables={"silver/job_run": {"also": ["job_id", "node_list"]}}),
            "node_list names hosts",
        ),
        (changed("tenant", rows="all"), "rows own is for tenants"),
        (changed("operator", mode="0644"), "rights to everybody"),
        (changed("operator", mode="rw-"), "three octal digits"),
        (changed("operator", tables={"gold/clusterday": {}}), "is no table of the lake"),
        (changed("auditor", colums=["x"]), "colums"),
        (SHIPPED | {"audiences": {"press": SHIPPED["audiences"]["public"]}}, "press"),
        (SHIPPED | {"release": {"epsilon": 0}}, "release.epsilon"),
        (["audiences"], "no mapping"),
    ],
)
def test_a_policy_that_gives_too_much_is_refused_and_says_what(
    policy: Any, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "access.yaml"
    file.write_text(yaml.safe_dump(policy))
    with pytest.raises(ConfigurationError, match=said) as refused:
        read_policy(file)
    assert str(file) in str(refused.value)


def test_the_shipped_policy_is_a_policy() -> None:
    assert set(read_policy(conf_path("policies/access.yaml")).audiences) == {
        "public",
        "tenant",
        "operator",
        "auditor",
    }


views = st.dictionaries(
    st.sampled_from([*TABLES, "gold/*", "silver/*"]),
    st.builds(lambda also: {"also": also}, st.lists(st.sampled_from(sorted(FIELDS)), max_size=3)),
    min_size=1, max_size=4,
)  # fmt: skip
policies = st.fixed_dictionaries(
    {
        "audiences": st.dictionaries(
            st.sampled_from(["public", "tenant"]),
            st.fixed_dictionaries({
                "classes": st.lists(st.sampled_from(["public", "internal", "personal"]), min_size=1),
                "tables": views,
                "rows": st.sampled_from(["all", "own", "enough_people"]),
                "min_people": st.sampled_from([None, 3]),
                "mode": st.sampled_from(["0640", "0644"]),
            }),
            min_size=1,
        )
    }
)  # fmt: skip
# Policies that are right but for what they list, so that many are accepted.
nearly = st.builds(
    lambda tables, also: changed("tenant", tables={name: {"also": ["job_id", *also]} for name in tables}),
    st.lists(
        st.sampled_from(["gold/job_energy", "silver/job_run", "silver/job_node", "bronze/job"]), min_size=1
    ),
    st.lists(st.sampled_from(["outcome", "user_name", "node_list", "submit_time", "restart"]), max_size=2),
)
rows = st.lists(st.tuples(st.sampled_from(["a", "b", "ab", "A", None]), st.integers(0, 9)), max_size=20)


@given(policy=st.one_of(policies, nearly), rows=rows, tenant=st.sampled_from(["a", "b", "ab", ""]))
def test_no_policy_that_is_accepted_shows_a_tenant_another_ones_row_or_a_host(
    policy: dict[str, Any], rows: list[tuple[str | None, int]], tenant: str
) -> None:
    try:
        accepted = Policy.model_validate(policy)
    except ValueError:
        return
    for name, audience in accepted.audiences.items():
        for table in audience.views():
            columns = set(seen_columns(TABLES[table], name, audience))
            if name in OUTSIDE:
                assert not columns & HOSTS
            if name == "public":
                assert {privacy_class(FIELDS[column]) for column in columns} <= {"public"}
                assert not columns & ({"tenant_id", "account"} | PERSONAL)
            if name == "tenant":
                assert audience.rows == "own" and "tenant_id" in TABLES[table].columns
    frame = pl.DataFrame(rows, schema={"tenant_id": pl.String, "figure": pl.Int64}, orient="row")
    own = own_rows(frame, tenant)
    assert set(own["tenant_id"]) <= {tenant}
    assert own.height == sum(one == tenant for one, _ in rows)


def test_a_copy_declares_what_it_holds() -> None:
    policy = read_policy(conf_path("policies/access.yaml"))
    for name, audience in policy.audiences.items():
        for table in audience.views():
            seen = seen_table(TABLES[table], name, audience)
            assert set(seen.key) | set(seen.not_null) <= set(seen.columns)
            assert set(seen.required) <= set(TABLES[table].required)


def clusters(*names: str, **more: Any) -> pl.DataFrame:
    return pl.DataFrame(
        [{"site_id": "s", "cluster_id": name, "date": DAY, "kwh": 1.0} | more for name in names]
    )


def runs(**users: list[str]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {"site_id": "s", "cluster_id": cluster, "date": DAY, "user_name": user, "tenant_id": "t"}
            for cluster, of_cluster in users.items()
            for user in of_cluster
        ]
    )


def test_a_cluster_of_few_people_is_withheld_and_with_it_the_sum_that_would_tell_it() -> None:
    ran = runs(many=["a", "b", "c"], few=["a", "b", "a", "b"])
    kept = enough_people(clusters("many", "few", "idle"), ran, 3)
    assert kept["cluster_id"].to_list() == ["many", "idle"]
    site = clusters("x").drop("cluster_id")
    assert enough_people(site, ran, 3).is_empty()
    assert enough_people(site, ran, 2).height == 1
    month = site.with_columns(date=pl.lit(date(2025, 6, 1)), last_date=pl.lit(date(2025, 6, 30)))
    assert enough_people(month, ran, 3).is_empty()


@pytest.mark.parametrize("tenant", ["..", ".", "a/b", "../../etc", "a\0b", "/", "t-aaaa"])
def test_a_tenants_folder_stays_where_it_is_put(tenant: str, tmp_path: Path) -> None:
    folder = (tmp_path / folder_of(tenant)).resolve()
    assert folder.parent == tmp_path.resolve()
