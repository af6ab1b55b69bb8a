"""Power caps: curves of logged runs, the oracle, and choices that promise nothing outside what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.power_caps_probed import (
    ProbeSettings,
    Reading,
    Run,
    charged,
    next_probe_w,
    oracle_cap_w,
    oracle_saving_ratio,
    probed_choice,
    repeatability,
)
from lepton_etl.recommend.power_caps import (
    HARDWARE_UNSEEN,
    NO_SAFE_CAP,
    OUTSIDE_SUPPORT,
    TOO_FEW_NETWORKS,
    TOO_FEW_WORKLOADS,
    BlindCaps,
    CapChoice,
    CapCurve,
    choice_of,
    curves_of,
    learn_blind,
    others,
)

CASES = Path(__file__).parents[3] / "cases" / "caps"
CAPS_W = np.arange(100.0, 301.0, 25.0)


def curve(network: str, number: int, demand_w: float, noise: np.random.Generator | None = None) -> CapCurve:
    """A device whose time grows as the cap falls below what the workload draws; a law of its own, not the model's."""
    short = np.maximum(demand_w / CAPS_W - 0.95, 0.0)
    time_s = 100.0 * (1.0 + 0.08 * short + 0.3 * short**2)
    time_s = time_s * (1.0 if noise is None else 1.0 + 0.004 * noise.standard_normal(len(CAPS_W)))
    power_w = np.minimum(demand_w * 0.97, CAPS_W * 0.98)
    return CapCurve("gpu-a", network, f"{network}-{number}", CAPS_W, time_s, time_s * power_w)


def fleet(networks: int = 5, workloads: int = 12, seed: int = 3) -> list[CapCurve]:
    noise = np.random.default_rng(seed)
    return [
        curve(f"net{n}", w, float(noise.uniform(240, 290)), noise)
        for n in range(networks)
        for w in range(workloads)
    ]


def test_runs_become_curves_where_the_default_limit_was_logged() -> None:
    made = curves_of(pd.read_csv(CASES / "runs.csv"))
    assert [c.workload_id for c in made] == ["vision-64", "vision-8"]
    vision = made[0]
    assert vision.power_limit_w.tolist() == [150, 200, 250, 300]
    assert vision.slowdown_ratio == pytest.approx([0.4, 0.1, 0.02, 0.0])
    assert vision.saving_ratio[1] == pytest.approx(1 - 110 * 196 / (100 * 280))
    # Runs under one cap are joined by sums: (2 x 50 + 53) s and (2 x 50 x 150 + 53 x 140) J over 3 units.
    assert made[1].time_per_work_s[-1] == pytest.approx(51.0)
    assert made[1].energy_per_work_j[-1] == pytest.approx((15_000 + 7_420) / 3)


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="power_limit_w"):
        curves_of(pd.read_csv(CASES / "runs.csv").drop(columns="power_limit_w"))


def test_the_oracle_takes_the_cap_of_least_energy_within_the_bound() -> None:
    vision = curves_of(pd.read_csv(CASES / "runs.csv"))[0]
    assert oracle_cap_w(vision, 0.05) == 250
    assert oracle_cap_w(vision, 0.10 + 1e-9) == 200
    assert oracle_cap_w(vision, 0.0) == 300
    assert oracle_saving_ratio([vision], 0.05) == pytest.approx(1 - 102 * 245 / (100 * 280))


@given(scale=st.floats(0.1, 10), power=st.floats(0.1, 10))
def test_ratios_do_not_depend_on_the_units_of_work(scale: float, power: float) -> None:
    one = curve("net", 0, 270)
    scaled = replace(
        one,
        time_per_work_s=one.time_per_work_s * scale,
        energy_per_work_j=one.energy_per_work_j * scale * power,
    )
    assert scaled.slowdown_ratio == pytest.approx(one.slowdown_ratio)
    assert scaled.saving_ratio == pytest.approx(one.saving_ratio)
    assert oracle_cap_w(scaled, 0.05) == oracle_cap_w(one, 0.05)


def blind_choice(
    curves: list[CapCurve],
    network_id: str,
    hardware_class: str,
    default_limit_w: float,
    default_power_w: float,
    caps_allowed_w: list[float] | None = None,
) -> CapChoice:
    """The cap of one workload by the curves of every other network of its class, as the nightly advice asks for it."""
    own = [one for one in curves if one.hardware_class == hardware_class]
    return choice_of(learn_blind(others(own, network_id)), default_limit_w, default_power_w, caps_allowed_w)


def test_a_blind_cap_saves_and_keeps_the_bound_on_networks_it_never_saw() -> None:
    curves = fleet()
    violations = capped = 0
    saved, best = [], []
    for one in curves:
        choice = blind_choice(curves, one.network_id, "gpu-a", 300.0, one.default_power_w)
        best.append(oracle_saving_ratio([one], 0.05))
        if choice.power_limit_w is None:
            saved.append(0.0)
            continue
        at = one.at(choice.power_limit_w)
        capped += 1
        violations += one.slowdown_ratio[at] > 0.05
        saved.append(float(one.saving_ratio[at]))
        assert choice.saving_ratio is not None
        assert 0 < choice.saving_ratio.lower < choice.saving_ratio.value
    assert capped > len(curves) / 3
    assert violations <= 0.03 * len(curves)
    assert sum(saved) > 0.3 * sum(best)


def test_no_row_of_the_network_itself_is_used() -> None:
    curves = fleet()
    lied = [
        replace(c, time_per_work_s=c.time_per_work_s * np.append(np.full(len(CAPS_W) - 1, 9.0), 1.0))
        if c.network_id == "net0"
        else c
        for c in curves
    ]
    for power_w in (240.0, 270.0):
        assert blind_choice(curves, "net0", "gpu-a", 300.0, power_w) == blind_choice(
            lied, "net0", "gpu-a", 300.0, power_w
        )


def test_nothing_is_promised_outside_what_was_measured() -> None:
    curves = fleet()
    assert blind_choice(curves, "new", "gpu-b", 300.0, 200.0).reason == HARDWARE_UNSEEN
    assert blind_choice(curves, "new", "gpu-a", 400.0, 200.0).power_limit_w is None
    assert blind_choice(curves, "new", "gpu-a", 300.0, 40.0).reason == OUTSIDE_SUPPORT
    assert blind_choice(curves, "new", "gpu-a", 300.0, 299.0).reason == OUTSIDE_SUPPORT
    assert blind_choice(curves, "new", "gpu-a", 300.0, float("nan")).reason == OUTSIDE_SUPPORT
    assert blind_choice(curves, "new", "gpu-a", 300.0, 250.0, caps_allowed_w=[120.0]).reason == NO_SAFE_CAP
    assert learn_blind([c for c in curves if c.network_id in ("net0", "net1")]) == TOO_FEW_NETWORKS
    assert learn_blind(fleet(4, 5)) == TOO_FEW_WORKLOADS
    assert learn_blind([]) == HARDWARE_UNSEEN


def test_workloads_that_all_slow_down_leave_no_safe_cap() -> None:
    slow = [
        replace(c, time_per_work_s=c.time_per_work_s * np.append(np.linspace(2.0, 1.4, len(CAPS_W) - 1), 1.0))
        for c in fleet(seed=5)
    ]
    learned = learn_blind(slow)
    assert isinstance(learned, BlindCaps)
    assert learned.choose(250.0).reason == NO_SAFE_CAP


def reading(one: CapCurve, cap_w: float) -> Reading:
    at = one.at(cap_w)
    return Reading(cap_w, float(one.time_per_work_s[at]), float(one.energy_per_work_j[at]))


def probes_of(one: CapCurve, given: ProbeSettings) -> list[Reading]:
    probes: list[Reading] = []
    while (cap_w := next_probe_w(CAPS_W[:-1].tolist(), reading(one, 300.0), probes, given)) is not None:
        probes.append(reading(one, cap_w))
    return probes


@given(demand_w=st.floats(120, 400), most=st.integers(1, 3), epochs=st.floats(3, 500), lost=st.booleans())
@settings(deadline=None)
def test_probed_choices_keep_the_bound_and_their_number(
    demand_w: float, most: int, epochs: float, lost: bool
) -> None:
    one, given = curve("net", 0, demand_w), ProbeSettings(probes_max=most)
    probes = probes_of(one, given)
    assert len(probes) <= most
    assert len({p.power_limit_w for p in probes}) == len(probes)
    choice = probed_choice(reading(one, 300.0), probes, Run(epochs, 1.0, lost), given)
    if choice.power_limit_w is None:
        assert choice.reason
        return
    assert choice.power_limit_w in choice.probed_w
    assert one.slowdown_ratio[one.at(choice.power_limit_w)] <= 0.05
    assert choice.run_slowdown_ratio is not None
    assert choice.run_saving_ratio is not None
    assert choice.run_slowdown_ratio <= 0.05


@pytest.mark.parametrize("demand_w", [150, 200, 230, 260, 290])
def test_three_probes_bracket_the_lowest_cap_within_the_bound(demand_w: float) -> None:
    one = curve("net", 0, demand_w)
    choice = probed_choice(reading(one, 300.0), probes_of(one, ProbeSettings()), Run(1000.0))
    # Eight caps and three probes leave at most one step between what was found and the oracle's cap.
    assert choice.power_limit_w == pytest.approx(oracle_cap_w(one, 0.05), abs=25)


def test_the_probes_are_charged() -> None:
    default, slow, good = Reading(300, 100, 30_000), Reading(100, 200, 24_000), Reading(200, 104, 24_000)
    # 10 units: one at 24,000 J and 200 s, one at 24,000 and 104, eight more as chosen.
    energy, time = charged(default, [slow, good], good, Run(10.0))
    assert energy == pytest.approx(24_000 * 10 / 300_000 - 1)
    assert time == pytest.approx((200 + 9 * 104) / 1000 - 1)
    energy, time = charged(default, [slow, good], good, Run(10.0, probe_lost=True))
    assert energy == pytest.approx(24_000 * 12 / 300_000 - 1)
    assert time == pytest.approx((200 + 11 * 104) / 1000 - 1)
    # The steady slowdown of 4 % is within the bound; with the slow probe the run of 10 is not, one of 100 is.
    assert probed_choice(default, [slow, good], Run(10.0)).power_limit_w is None
    assert probed_choice(default, [slow, good], Run(200.0)).power_limit_w == 200
    with pytest.raises(ValueError, match="longer than the run"):
        probed_choice(default, [slow, good], Run(1.5))


def test_room_is_left_for_the_error_of_a_probe() -> None:
    default, near = Reading(300, 100, 30_000), Reading(200, 104.5, 24_000)
    assert probed_choice(default, [near]).power_limit_w == 200
    assert (
        probed_choice(default, [near], None, ProbeSettings(probe_time_error_ratio=0.01)).power_limit_w is None
    )


def test_a_probed_saving_is_as_wide_as_readings_scatter() -> None:
    smooth, rough = fleet(seed=1), fleet(seed=1)
    noise = np.random.default_rng(2)
    rough = [
        replace(c, energy_per_work_j=c.energy_per_work_j * (1 + 0.05 * noise.standard_normal(len(CAPS_W))))
        for c in rough
    ]
    narrow, wide = repeatability(others(smooth, "x")), repeatability(others(rough, "x"))
    assert narrow.saving_ratio is not None
    assert wide.saving_ratio is not None
    assert wide.saving_ratio > 1.5 * narrow.saving_ratio
    assert repeatability([]).saving_ratio is None
