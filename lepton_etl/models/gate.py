"""Who becomes champion: a model good enough on days it has not seen, and no worse than the present one."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_etl.models.conformal import Coverage
from lepton_etl.models.metrics import Errors
from lepton_etl.models.monotone import Fall
from lepton_etl.models.settings import GateSettings


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the alias may move, and if not, every reason why."""

    promoted: bool
    reasons: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        return "; ".join(self.reasons)


@dataclass(frozen=True, slots=True)
class Shown:
    """What a candidate has shown on the forward test: errors beside those of its rivals, and what else is asked.

    `worse_scopes` are sentences, one for each class or cluster where the champion is better by more than allowed.
    """

    candidate: Errors
    on_training: Errors
    class_mean: Errors
    champion: Errors | None = None
    worse_scopes: tuple[str, ...] = ()
    coverage: Coverage | None = None
    falls: tuple[Fall, ...] = ()


def judge(shown: Shown, gates: GateSettings) -> Verdict:
    """The verdict on errors that all stem from the same forward test rows, with every reason against promotion.

    Source: ASHRAE Guideline 14, hourly calibration: CV(RMSE) <= 30 %, |NMBE| <= 10 %.
    """
    candidate, class_mean, champion = shown.candidate, shown.class_mean, shown.champion
    cv, nmbe = candidate.cv_rmse_ratio, candidate.nmbe_ratio
    if candidate.rows < gates.min_test_rows:
        return Verdict(False, (f"{candidate.rows} test rows, {gates.min_test_rows} needed",))
    if cv is None or nmbe is None:
        return Verdict(False, ("the test rows hold no energy",))
    reasons = []
    if cv > gates.cv_rmse_max_ratio:
        reasons.append(f"CV(RMSE) {cv:.1%} above {gates.cv_rmse_max_ratio:.0%}")
    if abs(nmbe) > gates.nmbe_max_ratio:
        reasons.append(f"NMBE {nmbe:+.1%} outside {gates.nmbe_max_ratio:.0%}")
    if class_mean.cv_rmse_ratio is not None and cv >= class_mean.cv_rmse_ratio:
        reasons.append(f"CV(RMSE) {cv:.1%} no better than the class mean's {class_mean.cv_rmse_ratio:.1%}")
    if champion is not None and champion.cv_rmse_ratio is not None:
        limit = champion.cv_rmse_ratio * (1 + gates.champion_tolerance_ratio)
        if cv > limit:
            reasons.append(f"CV(RMSE) {cv:.2%} worse than the champion's {champion.cv_rmse_ratio:.2%}")
    reasons += shown.worse_scopes
    taught = shown.on_training.cv_rmse_ratio
    if taught is not None and cv - taught > gates.gap_max_ratio:
        reasons.append(f"overfitted: CV(RMSE) {taught:.1%} on its training hours, {cv:.1%} after them")
    if shown.coverage is not None and shown.coverage.misses():
        reasons.append(
            f"its 90 % interval holds {shown.coverage.inside_ratio:.1%} of {shown.coverage.rows:,} hours"
        )
    reasons += [str(fall) for fall in shown.falls]
    return Verdict(not reasons, tuple(reasons))
