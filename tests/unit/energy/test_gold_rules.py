"""The constants that gold's figures rest on, without a JVM."""

from __future__ import annotations

import pytest

from lepton_etl.facility.pue import IT_CATEGORY, NODE_CATEGORY
from lepton_etl.schema.columns import ENERGY_SUM, FINE_SUM
from lepton_etl.schema.common import BOUNDARY
from lepton_etl.uncertainty import CONFIDENCE, Z


def test_the_interval_leaves_five_percent_on_each_side() -> None:
    assert CONFIDENCE == 0.9
    assert pytest.approx(1.6448536, abs=1e-7) == Z


def test_what_leaves_the_site_is_taken_off() -> None:
    taken_off = {point for point, direction in BOUNDARY.items() if direction < 0}
    assert taken_off == {"export", "battery_in"}
    assert set(BOUNDARY) - taken_off == {"utility", "pv", "generator", "battery_out"}


def test_categories_grow_towards_the_it_input() -> None:
    # ISO/IEC 30134-2: 1 at the UPS output, 2 at the PDU output, 3 at the IT equipment.
    assert IT_CATEGORY["ups_out"] < IT_CATEGORY["pdu_out"] < NODE_CATEGORY


def test_sums_have_room_for_the_largest_energy() -> None:
    # The dictionary's largest energy is 1e9 kWh; a sum of a billion such rows still fits.
    assert ENERGY_SUM.precision - ENERGY_SUM.scale >= 18
    assert FINE_SUM.precision - FINE_SUM.scale >= 18
