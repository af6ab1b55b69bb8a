"""The brief's facility equation: its worked example, and why nothing is optimised on it."""

from __future__ import annotations

import csv

import pytest

from lepton_etl.facility.brief import LinearFacility
from tests.conftest import PROJECT

with (PROJECT / "tests/cases/facility/worked_example.csv").open(newline="") as file:
    CASES = [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("case", CASES)
def test_the_worked_example(case: dict[str, float]) -> None:
    plant = LinearFacility(case["k1_ratio"], case["k2_ratio"], case["management_kwh"])
    assert plant.energy_kwh(case["q_kwh"]) == pytest.approx(case["total_kwh"])


def test_the_linear_form_is_least_at_no_heat_and_cannot_tell_its_ratios_apart() -> None:
    example = LinearFacility(0.1, 0.2, 100.0)
    energies = [example.energy_kwh(q_kwh) for q_kwh in range(0, 2001, 50)]
    assert min(energies) == energies[0] == 100.0
    exchanged = LinearFacility(0.2, 0.1, 100.0)
    assert [exchanged.energy_kwh(q_kwh) for q_kwh in range(0, 2001, 50)] == pytest.approx(energies)
