"""A process that scores is killed: its part is scored again, or nothing is predicted and the last line says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lepton_etl.config.settings import Settings
from lepton_etl.errors import WorkerLostError
from lepton_etl.lake import node_parts
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import PREDICTION
from pipelines import score, train
from pipelines.engine import ATTEMPTS, LocalEngine, R, T
from tests.integration.test_train import DAYS, _context, _fill, lake, settings

__all__ = ["lake", "settings"]
pytestmark = [pytest.mark.fault, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Dying:
    """Work whose process is killed: the first time, or every time."""

    work: Callable[[Any], Any]
    marker: Path
    always: bool

    def __call__(self, item: Any) -> Any:
        if self.always or not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.work(item)


@dataclass
class Killed(LocalEngine):
    marker: Path
    always: bool = False

    def __post_init__(self) -> None:
        super().__init__(2)

    def map(self, work: Callable[[T], R], items: Sequence[T], attempts: int = ATTEMPTS) -> list[R]:
        return super().map(Dying(work, self.marker, self.always), items, attempts)


def test_no_partial_prediction_is_left(
    lake: Lake,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(node_parts, "MOST_ROWS", 1000)
    _fill(lake, DAYS)
    # The registry is a file of this machine: how long it takes is none of this test's.
    patient = settings.mlflow.model_copy(update={"deadline_s": 600})
    context = _context(lake, settings.model_copy(update={"mlflow": patient}), DAYS)
    assert "is champion" in train.run(context).notes[0]
    with (
        Killed(tmp_path / "ever", always=True) as engine,
        pytest.raises(WorkerLostError, match="2 times of 2"),
    ):
        score.run(replace(context, engine=engine))
    assert lake.read(PREDICTION).is_empty()
    with Killed(tmp_path / "once") as engine:
        score.run(replace(context, engine=engine))
    assert (tmp_path / "once").exists()
    version, rows = lake.version(PREDICTION), lake.read(PREDICTION)
    assert rows.height == 3 * 96
    # A quiet run has nothing to change of it.
    with LocalEngine(2) as engine:
        score.run(replace(context, engine=engine))
    assert lake.version(PREDICTION) == version
