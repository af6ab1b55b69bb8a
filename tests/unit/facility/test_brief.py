"""The brief's facility equation: its worked example, and why nothing is optimised on it."""

from __future__ import annotations

import pytest

from lepton_etl.facility.brief import LinearFacility


@pytest.mark.parametrize(
    ("q_kwh", "total_kwh"), [(0.0, 100.0), (500.0, 250.0), (1000.0, 400.0), (2000.0, 700.0)]
)
def test_the_worked_example(q_kwh: float, total_kwh: float) -> None:
    # k1 = 0.1, k2 = 0.2 and a management load of 100 kW over one hour.
    assert LinearFacility(0.1, 0.2, 100.0).energy_kwh(q_kwh) == pytest.approx(total_kwh)


def test_the_linear_form_is_least_at_no_heat_and_cannot_tell_its_ratios_apart() -> None:
    example = LinearFacility(0.1, 0.2, 100.0)
    energies = [example.energy_kwh(q_kwh) for q_kwh in range(0, 2001, 50)]
    assert min(energies) == energies[0] == 100.0
    exchanged = LinearFacility(0.2, 0.1, 100.0)
    assert [exchanged.energy_kwh(q_kwh) for q_kwh in range(0, 2001, 50)] == pytest.approx(energies)
