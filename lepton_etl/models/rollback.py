"""When the champion has become worse than the gate allows: back to the newest earlier champion that has not."""

from __future__ import annotations

import pandas as pd

from lepton_etl.errors import ModelError
from lepton_etl.models.features import TARGET
from lepton_etl.models.metrics import errors, overall
from lepton_etl.models.registry import Registry
from lepton_etl.models.settings import GateSettings
from lepton_etl.models.training import CHAMPION, Trained
from lepton_etl.models.verified import VerifiedModel


def back_to_better(
    registry: Registry, champion: VerifiedModel, newest: pd.DataFrame, trained: Trained, gates: GateSettings
) -> tuple[str, ...]:
    """Move the alias back where the champion misses the gate's CV(RMSE) on the test hours; what was done, in words.

    `newest` are the test hours of `trained`, in which the champion's errors stand. Nothing is done where the challenger
    was promoted, it replaced the champion; or where those hours are older than the champion's own test, a back-fill of
    old days says nothing against it.
    """
    name, present = champion.version.name, champion.version
    now, limit = overall(trained.errors, CHAMPION).cv_rmse_ratio, gates.cv_rmse_max_ratio
    older = trained.test_until.isoformat() < present.tags.get("test_until", "")
    if trained.verdict.promoted or older or now is None or now <= limit:
        return ()
    notes = []
    measured = newest[TARGET].to_numpy(dtype=float)
    earlier = [
        one for one in registry.versions(name)
        if one.tags.get("promotion") == "promoted" and int(one.version) < int(present.version)
    ]  # fmt: skip
    for one in sorted(earlier, key=lambda one: -int(one.version)):
        try:
            model = registry.verified_model(name, version=one.version)
        except ModelError as error:
            notes.append(f"version {one.version} not considered for a rollback: {error}")
            continue
        before = errors(measured, model.predict(newest)).cv_rmse_ratio
        if before is not None and before <= limit:
            reason = f"CV(RMSE) {now:.1%} on the newest days, version {one.version} has {before:.1%}"
            registry.roll_back(name, one.version, reason)
            return (*notes, f"rolled back to version {one.version}: {reason}")
    return (
        *notes,
        f"the champion's CV(RMSE) is {now:.1%} on the newest days, and no earlier version does better",
    )
