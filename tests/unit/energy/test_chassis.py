"""What a chassis draws beyond its nodes, and whose it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.energy.chassis import ChassisShare, chassis_shared

kwh = st.floats(0, 1e3)


def test_four_real_nodes_of_20_w_in_a_chassis_of_250_w() -> None:
    found = chassis_shared(0.250, [0.020, 0.020, 0.020, 0.040])
    assert found.shared_kwh == pytest.approx(0.150)
    assert found.by_node_kwh == pytest.approx((0.030, 0.030, 0.030, 0.060))


@given(st.lists(kwh, min_size=1, max_size=8), kwh)
def test_the_parts_are_the_whole_and_none_is_negative(nodes: list[float], beyond: float) -> None:
    found = chassis_shared(sum(nodes) + beyond, nodes)
    if found.by_node_kwh is None or found.shared_kwh is None:
        # The sum of the nodes was rounded above the chassis.
        assert beyond < 1e-9 and found.flag == "chassis_below_nodes"
    else:
        assert sum(found.by_node_kwh) == pytest.approx(found.shared_kwh, rel=1e-9, abs=1e-12)
        assert min(found.by_node_kwh) >= 0


def test_nodes_above_their_chassis_make_it_unknown_not_0() -> None:
    assert chassis_shared(0.05, [0.02, 0.04]) == ChassisShare(None, None, "chassis_below_nodes")


@pytest.mark.parametrize(("chassis", "nodes"), [(None, [0.02]), (0.25, [0.02, None]), (0.25, [])])
def test_without_the_chassis_or_one_of_its_nodes_nothing_is_known(
    chassis: float | None, nodes: list[float | None]
) -> None:
    assert chassis_shared(chassis, nodes) == ChassisShare(None, None, "chassis_unknown")


def test_nodes_that_are_off_share_equally() -> None:
    assert chassis_shared(0.1, [0.0, 0.0]).by_node_kwh == (0.05, 0.05)
