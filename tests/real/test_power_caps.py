"""Real GPUs under power caps, each network left out: the oracle is reproduced, choices keep the slowdown bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.inputs import REAL
from bench.measure import Figure
from bench.savings_caps import figures

FOLDER = REAL if REAL.is_absolute() else Path(__file__).resolve().parents[2] / REAL

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def found() -> dict[str, Figure]:
    folder = FOLDER / "zeus-gpu-power-limits"
    if not folder.exists():
        pytest.skip("no power-cap tables in LEPTON_REAL_DATA")
    return {figure.name: figure for figure in figures(folder)}


@pytest.mark.parametrize(("gpu", "saving_pct"), [("v100", 9.638), ("a40", 11.990)])
def test_the_oracle_is_reproduced(found: dict[str, Figure], gpu: str, saving_pct: float) -> None:
    assert found[f"caps/{gpu}/oracle saving"].value == pytest.approx(saving_pct, abs=0.001)


def test_every_targeted_figure_is_reached(found: dict[str, Figure]) -> None:
    targeted = [figure for figure in found.values() if figure.ok is not None]
    assert len(targeted) >= 8
    assert not [figure.name for figure in targeted if not figure.ok]


@pytest.mark.parametrize("gpu", ["v100", "a40"])
def test_blind_choices_save_something(found: dict[str, Figure], gpu: str) -> None:
    assert found[f"caps/{gpu}/blind/capture"].value > 10
