"""Powering down: demand, reserve and failure domains stay served, and waking is paid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.recommend.consolidation import Node, Rules, consolidate
from lepton_etl.uncertainty import Estimate


def node(name: str, **changed: object) -> Node:
    plain: dict[str, object] = {
        "cluster_id": "c", "units": 8.0, "idle_w": Estimate(400.0, 380.0, 430.0),
        "standby_w": 50.0, "wake_h": 0.5, "wake_kwh": 0.2,
    }  # fmt: skip
    return Node(name, **(plain | changed))  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_demand_reserve_and_every_failure_domain_stay_served(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hours = 24
    nodes = [
        node(
            f"n{i}", cluster_id=f"c{i % 2}", units=float(rng.choice([4, 8])),
            idle_w=Estimate(1.0, 0.95, 1.05).times(float(rng.uniform(30, 500))),
            domains={"rack": f"r{i % 4}", "pdu": f"p{i % 3}"}, free_from_h=int(rng.integers(0, 6)),
            kind=str(rng.choice(["compute", "compute", "compute", "storage"])), on=bool(rng.random() < 0.9),
            wake_kwh=float(rng.uniform(0, 2)),
        )
        for i in range(24)
    ]  # fmt: skip
    demand = {f"c{i}": rng.uniform(0, 70, hours) for i in (0, 1)}
    rules = Rules(reserve_nodes=int(rng.integers(0, 3)), reserve_ratio=0.1, least_on=int(rng.integers(1, 3)))
    made = consolidate(nodes, demand, 0.95, rules)
    by_id = {one.node_id: one for one in nodes}
    down = np.zeros((24, hours), dtype=bool)
    for run in made:
        one = by_id[run.node_id]
        assert one.kind == "compute" and one.on and run.from_h >= one.free_from_h
        assert run.saving_kwh.value >= -1e-9
        assert not down[nodes.index(one), run.from_h : run.until_h].any()
        down[nodes.index(one), run.from_h : run.until_h] = True
    for cluster, needs in demand.items():
        work = [
            i for i, one in enumerate(nodes) if one.cluster_id == cluster and one.kind == "compute" and one.on
        ]
        units = np.array([nodes[i].units for i in work])
        on = units @ ~down[work]
        reserve = max(np.sort(units)[::-1][: rules.reserve_nodes].sum(), 0.1 * units.sum())
        short = on < needs + reserve - 1e-9
        # Where there was too little from the start, nobody goes down.
        assert not down[work][:, short].any()
    for kind in ("rack", "pdu"):
        for name in {one.domains[kind] for one in nodes}:
            members = [i for i, one in enumerate(nodes) if one.domains[kind] == name and one.on]
            on_here = (~down[members]).sum(axis=0)
            assert (on_here[down[members].any(axis=0)] >= rules.least_on).all()


def test_a_run_saves_idle_less_standby_and_pays_its_waking() -> None:
    made = consolidate([node("a"), node("b")], {"c": np.zeros(10)}, 0.9, Rules(1, 0.0))
    (run,) = made
    assert (run.from_h, run.until_h) == (0, 10)
    assert run.baseline_kwh == pytest.approx(4.0)
    assert run.saving_kwh.value == pytest.approx(0.35 * 9.5 - 0.2)
    assert run.saving_kwh.lower == pytest.approx(0.9 * (0.33 * 9.5 - 0.2) - 0.1 * 0.2)
    assert run.saving_kwh.upper == pytest.approx(0.38 * 9.5 - 0.2)
    assert run.node_id == "a"


def test_a_dip_shorter_than_break_even_wakes_nobody() -> None:
    demand = {"c": np.array([8.0, 8, 0, 0, 8, 8])}
    dear = [node("a", wake_kwh=1.0), node("b", wake_kwh=1.0)]
    made = consolidate(dear, demand, 0.9, Rules(0, 0.0))
    assert {run.until_h - run.from_h for run in made} == {6}
    assert {run.node_id for run in made} == {"a"}


def test_what_is_unknown_or_not_for_work_stays_on() -> None:
    nodes = [
        node("a"),
        node("s", kind="storage"),
        node("x", cluster_id="other"),
        node("hot", standby_w=500.0),
    ]
    made = consolidate(nodes, {"c": np.full(6, np.nan)}, 0.9)
    assert made == []
    known = consolidate(nodes, {"c": np.zeros(6)}, 0.9, Rules(0, 0.0))
    assert {run.node_id for run in known} == {"a"}
    assert consolidate([], {}, 0.9) == []


def test_a_rack_keeps_one() -> None:
    nodes = [node(name, domains={"rack": "r"}) for name in "ab"]
    made = consolidate(nodes, {"c": np.zeros(8)}, 0.9, Rules(0, 0.0))
    assert [run.node_id for run in made] == ["a"]
    apart = [replace(one, domains={"rack": one.node_id}) for one in nodes]
    assert len(consolidate(apart, {"c": np.zeros(8)}, 0.9, Rules(0, 0.0))) == 0
