"""Fit a site's cooling and management on earlier days, judge the fit forward in time, and predict with it.

The plain reference is cooling E_c = k1(wet bulb) x Q by non-negative least squares, k1 rising in bends. Q is
the IT energy of the hour: all of it becomes heat. What the heat meter adds (losses, fans) is in k1. The
challenger is boosted trees that rise with Q and wet bulb, kept as a grid of numbers: a grid can be stored,
read and checked, trees would have to be unpickled. The challenger's published errors are those of the grid. A
fit must beat two plain guesses, and where a site's hours cannot tell its cooling ratio and its management
load apart, the reason is stated. Losses of a conversion stage (transformer, UPS, distribution) are fitted by
what it delivers, and a PUE under a weather and a load that are the same for all lets sites be compared.
Source: ASHRAE Guideline 14 (CV(RMSE) and NMBE with p = 1; the sign is measured minus predicted).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from threadpoolctl import threadpool_limits

from lepton_etl.config.sections import FacilityGates, FacilityModelSettings
from lepton_etl.facility.hours import Bools, Floats, Ints, PlantHours
from lepton_etl.uncertainty import CONFIDENCE, cv_rmse, nmbe, uncalibrated


@dataclass(frozen=True, slots=True)
class Scores:
    """Ratios over the hours of the forward test; a baseline that the hours do not allow is None."""

    hours: int
    cv_rmse_ratio: float | None
    nmbe_ratio: float | None
    it_share_cv_rmse_ratio: float | None = None
    last_week_cv_rmse_ratio: float | None = None
    week_hours_cv_rmse_ratio: float | None = None
    """The model's own CV(RMSE) on the hours that have a week before."""


def score(train: PlantHours, test: PlantHours, predicted_kwh: Floats, last_week_kwh: Floats) -> Scores:
    """Errors of a prediction for the test hours, shape (n,), beside those of the baselines.

    The IT share is the training hours' overhead over their IT energy; `last_week_kwh` is NaN where unknown.
    """
    measured = test.overhead_kwh
    share = float(train.overhead_kwh.sum() / train.it_kwh.sum())
    has_week = np.isfinite(last_week_kwh)
    return Scores(
        hours=len(test),
        cv_rmse_ratio=cv_rmse(measured, predicted_kwh),
        nmbe_ratio=nmbe(measured, predicted_kwh),
        it_share_cv_rmse_ratio=cv_rmse(measured, share * test.it_kwh),
        last_week_cv_rmse_ratio=cv_rmse(measured[has_week], last_week_kwh[has_week]),
        week_hours_cv_rmse_ratio=cv_rmse(measured[has_week], predicted_kwh[has_week]),
    )


def why_refused(scores: Scores, gates: FacilityGates) -> tuple[str, ...]:
    """Every gate that the scores do not pass; empty: accepted.

    A baseline that cannot be formed is one that the model has not beaten.
    """
    cv, bias = scores.cv_rmse_ratio, scores.nmbe_ratio
    if cv is None or bias is None:
        return ("the test hours hold no overhead",)
    reasons = uncalibrated(cv, bias, gates.cv_rmse_max_ratio, gates.nmbe_max_ratio)
    for name, own, baseline in (
        ("a constant share of IT energy", cv, scores.it_share_cv_rmse_ratio),
        ("the same hour a week before", scores.week_hours_cv_rmse_ratio, scores.last_week_cv_rmse_ratio),
    ):
        if own is None or baseline is None:
            reasons.append(f"{name} cannot be compared with: too few hours")
        elif own > baseline * (1.0 - gates.baseline_gain_ratio):
            reasons.append(
                f"CV(RMSE) {own:.2%} not {gates.baseline_gain_ratio:.0%} below that of {name}, {baseline:.2%}"
            )
    return tuple(reasons)


# Above it a thousandth of noise in the hours moves single coefficients by a tenth.
LARGEST_CONDITION: Final = 100.0
SMALLEST_SPAN_K: Final = 3.0
SMALLEST_VARIATION: Final = 0.02


@dataclass(frozen=True, slots=True)
class Identified:
    """What the drivers of the fit's hours span; `reasons` empty: the parameters are identifiable."""

    condition: float
    wet_bulb_p05_c: float
    wet_bulb_p95_c: float
    it_variation_ratio: float
    reasons: tuple[str, ...]


def identified(hours: PlantHours, condition: float) -> Identified:
    """Judge the usable hours of a fit; `condition` is that of its scaled design."""
    low_c, high_c = np.quantile(hours.wet_bulb_c, [0.05, 0.95])
    variation = float(hours.it_kwh.std() / hours.it_kwh.mean())
    reasons = []
    if not hours.is_sub_metered:
        reasons.append("only a total is metered: cooling ratio and management load are one overhead")
    if condition > LARGEST_CONDITION:
        reasons.append(f"condition number {condition:.0f} above {LARGEST_CONDITION:.0f}")
    if high_c - low_c < SMALLEST_SPAN_K:
        reasons.append(f"wet bulb spans {high_c - low_c:.1f} K, {SMALLEST_SPAN_K:g} K needed")
    if variation < SMALLEST_VARIATION:
        reasons.append(f"IT energy varies by {variation:.1%}, {SMALLEST_VARIATION:.0%} needed")
    return Identified(condition, float(low_c), float(high_c), variation, tuple(reasons))


# Columns that differ less than this, relative to the largest, tell nothing apart.
_NO_COLUMN = 1e-12


@dataclass(frozen=True, slots=True)
class RatioCurve:
    """k1(T) = c0 + sum c_i max(T - knot_i, 0), all c at least 0; `constant_kwh` an hour that no heat moves."""

    knots_c: tuple[float, ...]
    coefficients: tuple[float, ...]
    constant_kwh: float = 0.0

    def ratio(self, wet_bulb_c: Floats) -> Floats:
        """k1 at outdoor wet bulbs, degC: cooling over IT energy."""
        return np.asarray(_bends(wet_bulb_c, self.knots_c) @ np.array(self.coefficients), dtype=np.float64)

    def energy_kwh(self, q_kwh: Floats, wet_bulb_c: Floats) -> Floats:
        """Energy of hours of heat Q, kWh, at outdoor wet bulbs, degC."""
        return np.asarray(q_kwh * self.ratio(wet_bulb_c) + self.constant_kwh, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class CurveFit:
    """A curve, the same fitted to resampled days (shape (resamples, columns)), and how well the design separates."""

    curve: RatioCurve
    resampled: Floats
    condition: float
    days: int


def fit_curve(
    q_kwh: Floats,
    wet_bulb_c: Floats,
    energy_kwh: Floats,
    day: Ints,
    *,
    knots_c: tuple[float, ...],
    with_constant: bool,
    resamples: int,
    seed: int,
) -> CurveFit:
    """Non-negative least squares of hours' energy on Q, Q x max(T - knot, 0) and, if asked, a constant.

    Arrays have shape (n,), n at least 1. Resamples draw whole days with replacement, because hours of one day
    err alike. Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23; Kuensch, The
    jackknife and the bootstrap for general stationary observations, Ann. Statist. 17 (1989).
    """
    design = _design(q_kwh, wet_bulb_c, knots_c, with_constant)
    solved = _nnls(design, energy_kwh)
    days, index = np.unique(day, return_inverse=True)
    grams = np.zeros((len(days), design.shape[1], design.shape[1]))
    moments = np.zeros((len(days), design.shape[1]))
    np.add.at(grams, index, design[:, :, None] * design[:, None, :])
    np.add.at(moments, index, design * energy_kwh[:, None])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(days), size=(resamples, len(days)))
    resampled = np.array([_from_moments(grams[one].sum(axis=0), moments[one].sum(axis=0)) for one in drawn])
    condition = _condition(design[:, : len(knots_c) + 1])
    return CurveFit(_curve(solved, knots_c, with_constant), resampled, condition, len(days))


def _curve(solved: Floats, knots_c: tuple[float, ...], with_constant: bool) -> RatioCurve:
    ratios = solved[: len(knots_c) + 1]
    constant = float(solved[-1]) if with_constant else 0.0
    return RatioCurve(knots_c, tuple(float(value) for value in ratios), constant)


def ratio_interval(fit: CurveFit, wet_bulb_c: float, level: float) -> tuple[float, float]:
    """Interval of k1 at one wet bulb, degC, from the resampled days."""
    knots_c = fit.curve.knots_c
    drawn = fit.resampled[:, : len(knots_c) + 1] @ _bends(np.array([wet_bulb_c]), knots_c)[0]
    return around(float(fit.curve.ratio(np.array([wet_bulb_c]))[0]), drawn, fit.days, level)


def around(estimate: float, drawn: Floats, days: int, level: float) -> tuple[float, float]:
    """Interval around an estimate by the spread of its resamples, by Student's t with `days` - 1 degrees.

    The resamples' own quantiles are too narrow for a dozen days, and off centre where a coefficient is held
    at 0: 74 to 92 % of such intervals held the truth, of these 85 to 96 %.
    """
    from scipy.stats import t as student

    spread = float(np.std(drawn)) * np.sqrt(days / max(days - 1, 1))
    half = float(student.ppf((1 + level) / 2, max(days - 1, 1))) * spread
    return max(estimate - half, 0.0), estimate + half


def _bends(wet_bulb_c: Floats, knots_c: tuple[float, ...]) -> Floats:
    columns = [np.ones(len(wet_bulb_c)), *(np.maximum(wet_bulb_c - knot, 0.0) for knot in knots_c)]
    return np.column_stack(columns)


def _design(q_kwh: Floats, wet_bulb_c: Floats, knots_c: tuple[float, ...], with_constant: bool) -> Floats:
    design = _bends(wet_bulb_c, knots_c) * q_kwh[:, None]
    return np.column_stack([design, np.ones(len(q_kwh))]) if with_constant else design


def _condition(design: Floats) -> float:
    """Condition number of the design, each column scaled to length 1; columns of zeros are left out."""
    lengths = np.sqrt((design**2).sum(axis=0))
    kept = lengths > _NO_COLUMN * lengths.max()
    return float(np.linalg.cond(design[:, kept] / lengths[kept]))


def _nnls(design: Floats, target: Floats) -> Floats:
    """Non-negative least squares. SciPy and scikit-learn cost every task a second to import: only fits do it here."""
    from scipy.optimize import nnls

    return np.asarray(nnls(design, target)[0], dtype=np.float64)


def _from_moments(gram: Floats, moment: Floats) -> Floats:
    """Non-negative least squares from A'A and A'b alone: the same minimum with a root of A'A in place of A."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > _NO_COLUMN * max(values.max(), _NO_COLUMN)
    root = np.sqrt(values[kept])
    return _nnls(root[:, None] * vectors[:, kept].T, (vectors[:, kept].T @ moment) / root)


GRID_POINTS: Final = 16


@dataclass(frozen=True, slots=True)
class RisingGrid:
    """Energy of an hour over Q, kWh, and wet bulb, degC; between the points bilinear.

    Beyond the seen wet bulbs it stays at the edge; beyond the seen Q it goes on in proportion to Q.
    """

    q_kwh: tuple[float, ...]
    wet_bulb_c: tuple[float, ...]
    values_kwh: tuple[tuple[float, ...], ...]

    def energy_kwh(self, q_kwh: Floats, wet_bulb_c: Floats) -> Floats:
        """Energy of hours of heat Q, kWh, at outdoor wet bulbs, degC."""
        axis_q, axis_t, values = np.array(self.q_kwh), np.array(self.wet_bulb_c), np.array(self.values_kwh)
        inside = np.clip(q_kwh, axis_q[0], axis_q[-1])
        row, along_q = _place(inside, axis_q)
        column, along_t = _place(np.clip(wet_bulb_c, axis_t[0], axis_t[-1]), axis_t)
        low = values[row, column] * (1 - along_t) + values[row, column + 1] * along_t
        high = values[row + 1, column] * (1 - along_t) + values[row + 1, column + 1] * along_t
        return np.asarray((low * (1 - along_q) + high * along_q) * (q_kwh / inside), dtype=np.float64)


def fit_grid(q_kwh: Floats, wet_bulb_c: Floats, energy_kwh: Floats, seed: int) -> RisingGrid:
    """Boosted trees of hours' energy on Q and wet bulb, rising in both, read off at the quantiles.

    Arrays have shape (n,). Source: scikit-learn, HistGradientBoostingRegressor, monotonic_cst.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor

    trees = HistGradientBoostingRegressor(
        monotonic_cst=[1, 1], max_iter=100, learning_rate=0.1, max_leaf_nodes=15, min_samples_leaf=24,
        early_stopping=False, random_state=seed,
    )  # fmt: skip
    # A few thousand rows: threads cost more than they bring, and many times more on a busy machine.
    with threadpool_limits(limits=1):
        trees.fit(np.column_stack([q_kwh, wet_bulb_c]), energy_kwh)
        axis_q, axis_t = _axis(q_kwh), _axis(wet_bulb_c)
        points = np.array([(q, t) for q in axis_q for t in axis_t])
        values = np.maximum(trees.predict(points), 0.0).reshape(len(axis_q), len(axis_t))
    # Predictions of monotone trees rise; the running maximum keeps the last digit from saying otherwise.
    values = np.maximum.accumulate(np.maximum.accumulate(values, axis=0), axis=1)
    return RisingGrid(
        tuple(axis_q.tolist()), tuple(axis_t.tolist()), tuple(tuple(row) for row in values.tolist())
    )


def can_fit_grid(q_kwh: Floats, wet_bulb_c: Floats) -> bool:
    """Whether both drivers vary enough to have an axis."""
    return len(_axis(q_kwh)) > 1 and len(_axis(wet_bulb_c)) > 1


def _axis(values: Floats) -> Floats:
    return np.unique(np.quantile(values, np.linspace(0.0, 1.0, GRID_POINTS)))


def _place(values: Floats, axis: Floats) -> tuple[np.ndarray, Floats]:
    """Index of the grid cell of each value and how far along it lies, 0..1."""
    cell = np.clip(np.searchsorted(axis, values, side="right") - 1, 0, len(axis) - 2)
    return cell, (values - axis[cell]) / (axis[cell + 1] - axis[cell])


MIN_HOURS: Final = 24
# Of a normal error this is seven standard deviations.
OUTLIER: Final = 10.0
# Share of the hours, those nearest to the curve, that it is fitted on before outliers are looked for, and how often.
CENTRAL: Final = 0.7
TRIMS: Final = 3
# A miss below this share of the mean loss is rounding.
_NOTHING: Final = 1e-3


@dataclass(frozen=True, slots=True)
class StageLoss:
    """loss = a + b x + c x^2 in kWh of an hour, x the output in kWh; a, b, c at least 0.

    `error_kwh` is one standard deviation of what the curve leaves, `hours` what it was fitted on.
    """

    a_kwh: float
    b_ratio: float
    c_per_kwh: float
    error_kwh: float
    hours: int

    def from_output(self, output_kwh: Floats) -> Floats:
        """Loss of hours by what the stage delivered."""
        return np.asarray(
            self.a_kwh + self.b_ratio * output_kwh + self.c_per_kwh * output_kwh**2, dtype=np.float64
        )

    def from_input(self, input_kwh: Floats) -> Floats:
        """Loss of hours by what the stage took: the root of x + loss(x) = input; at most the input."""
        rest = np.maximum(input_kwh - self.a_kwh, 0.0)
        slope = 1.0 + self.b_ratio
        # The form 2r / (s + sqrt(s^2 + 4cr)) stays exact where c is 0.
        output = 2.0 * rest / (slope + np.sqrt(slope**2 + 4.0 * self.c_per_kwh * rest))
        return np.asarray(input_kwh - output, dtype=np.float64)


def fit_stage_loss(input_kwh: Floats, output_kwh: Floats) -> StageLoss | None:
    """Non-negative least squares of input - output on 1, x, x^2 over hours in which both are known (not NaN).

    Without the hours that the curve of the others misses by OUTLIER times its median miss: an hour in which a meter was
    wrong is none of the equipment. None with fewer than MIN_HOURS such hours, or where the stage gives more than it
    takes over all.
    Source: EN 62040-3 and IEC 60076-1: no-load, proportional and square losses; Rousseeuw, Least median of squares
    regression, JASA 79 (1984): trimming.
    """
    known = np.isfinite(input_kwh) & np.isfinite(output_kwh) & (np.nan_to_num(output_kwh) > 0)
    taken, given = input_kwh[known], output_kwh[known]
    if len(given) < MIN_HOURS or taken.sum() <= given.sum():
        return None
    scale = float(given.max())
    load = given / scale
    design = np.column_stack([np.ones(len(load)), load, load**2])
    loss = taken - given
    solved = _nnls(design, loss)
    for _ in range(TRIMS):
        miss = np.abs(loss - design @ solved)
        central = miss <= np.quantile(miss, CENTRAL)
        solved = _nnls(design[central], loss[central])
    miss = np.abs(loss - design @ solved)
    kept = miss <= max(OUTLIER * float(np.median(miss)), _NOTHING * float(loss.mean()))
    solved = _nnls(design[kept], loss[kept])
    error = float(np.std(loss[kept] - design[kept] @ solved))
    return StageLoss(
        float(solved[0]), float(solved[1]) / scale, float(solved[2]) / scale**2, error, int(kept.sum())
    )


# Wet bulbs, degC, at which k1 is told with its interval, as far as the fit has seen them.
TOLD_WET_BULBS_C: Final = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)


@dataclass(frozen=True, slots=True)
class FacilityFit:
    """The overhead model of one site: E_c = cooling(Q, wet bulb), E_m = `management_kwh` an hour.

    Where only a total is metered, `management_kwh` is None and `cooling` is all of the overhead, conversion
    losses included. `low_ratio` and `high_ratio` are measured over predicted overhead at the ends of the 90 %
    interval on the forward test. `loss` is the conversion loss by IT energy, None where it is not known.
    """

    site_id: str
    first_day: int
    last_day: int
    hours: int
    kind: str
    cooling: RatioCurve | RisingGrid
    management_kwh: float | None
    low_ratio: float
    high_ratio: float
    loss: StageLoss | None
    mean_it_kwh: float
    mean_wet_bulb_c: float
    heat_k2_ratio: float | None
    loss_ratio: float | None
    scores: Scores
    identified: Identified
    refused: tuple[str, ...]
    intervals: dict[str, tuple[float, float]]

    @property
    def accepted(self) -> bool:
        """Whether the model may stand for a missing meter."""
        return not self.refused

    @property
    def cooling_ratio(self) -> float | None:
        """E_c over IT energy at the mean load and wet bulb; None where cooling is not metered by itself."""
        if self.management_kwh is None:
            return None
        at_mean = self.cooling.energy_kwh(np.array([self.mean_it_kwh]), np.array([self.mean_wet_bulb_c]))
        return float(at_mean[0]) / self.mean_it_kwh


@dataclass(frozen=True, slots=True)
class Overhead:
    """Hours' overhead, kWh: parts are None where they cannot be told apart; 90 % interval of the total."""

    cooling_kwh: Floats | None
    management_kwh: Floats | None
    total_kwh: Floats
    lower_kwh: Floats
    upper_kwh: Floats


def predict_overhead(fit: FacilityFit, q_kwh: Floats, wet_bulb_c: Floats) -> Overhead:
    """Cooling and management of hours of IT energy Q, kWh, at outdoor wet bulbs, degC; arrays of shape (n,)."""
    moved = fit.cooling.energy_kwh(q_kwh, wet_bulb_c)
    total = moved + (fit.management_kwh or 0.0)
    management = None if fit.management_kwh is None else np.full(len(q_kwh), fit.management_kwh)
    return Overhead(
        cooling_kwh=None if fit.management_kwh is None else moved,
        management_kwh=management,
        total_kwh=total,
        lower_kwh=total * fit.low_ratio,
        upper_kwh=total * fit.high_ratio,
    )


def why_not(hours: PlantHours, settings: FacilityModelSettings) -> str | None:
    """Why these hours cannot be fitted; None: they can."""
    count = int(hours.usable.sum())
    if count < settings.min_hours:
        return f"{count} hours with IT energy, wet bulb and overhead, {settings.min_hours} needed"
    if len(np.unique(hours.day[hours.usable])) < 2:
        return "all hours are of one day: nothing to test forward in time"
    return None


def fit_facility(site_id: str, hours: PlantHours, settings: FacilityModelSettings) -> FacilityFit:
    """The site's model from hours before the day it is for; `why_not` must be None.

    The errors are of a model fitted on the first days and tested on the last `test_ratio` of them; the
    parameters are then fitted again on all hours.
    """
    usable = hours.at(hours.usable)
    train, test = _forward(usable, settings.test_ratio)
    kind = _choose(train, settings)
    curve = _fit_curve(train, settings)
    predicted = _predict(_model(kind, train, curve, settings), train, test)
    last_week = usable.a_week_before()[len(train) :]
    scores = score(train, test, predicted, last_week)
    low_ratio, high_ratio = _error_ratios(test, predicted, settings)
    whole = _fit_curve(usable, settings)
    sub_metered = usable.is_sub_metered
    loss_known = np.isfinite(hours.loss_kwh) & np.isfinite(hours.it_kwh)
    it_kwh = float(usable.it_kwh.mean())
    return FacilityFit(
        site_id=site_id,
        first_day=int(usable.day[0]),
        last_day=int(usable.day[-1]),
        hours=len(usable),
        kind=kind,
        cooling=_model(kind, usable, whole, settings),
        management_kwh=float(usable.management_kwh.mean()) if sub_metered else None,
        low_ratio=low_ratio,
        high_ratio=high_ratio,
        loss=fit_stage_loss(hours.it_kwh + hours.loss_kwh, hours.it_kwh),
        mean_it_kwh=it_kwh,
        mean_wet_bulb_c=float(usable.wet_bulb_c.mean()),
        heat_k2_ratio=_over(hours.it_kwh, hours.heat_kwh),
        loss_ratio=_over(hours.loss_kwh, hours.it_kwh) if loss_known.any() else None,
        scores=scores,
        identified=identified(usable, whole.condition),
        refused=why_refused(scores, settings.gates),
        intervals=_intervals(whole, usable, settings),
    )


def _forward(hours: PlantHours, test_ratio: float) -> tuple[PlantHours, PlantHours]:
    """The first days and the last `test_ratio` of them, at least one day each."""
    days = np.unique(hours.day)
    held = min(max(1, round(test_ratio * len(days))), len(days) - 1)
    is_train: Bools = hours.day < days[-held]
    return hours.at(is_train), hours.at(~is_train)


def _target(hours: PlantHours) -> Floats:
    return hours.cooling_kwh if hours.is_sub_metered else hours.overhead_kwh


def _fit_curve(hours: PlantHours, settings: FacilityModelSettings) -> CurveFit:
    return fit_curve(
        hours.it_kwh, hours.wet_bulb_c, _target(hours), hours.day, knots_c=settings.knots_c,
        with_constant=not hours.is_sub_metered, resamples=settings.resamples, seed=settings.seed,
    )  # fmt: skip


def _model(
    kind: str, hours: PlantHours, curve: CurveFit, settings: FacilityModelSettings
) -> RatioCurve | RisingGrid:
    if kind == "monotone_grid":
        return fit_grid(hours.it_kwh, hours.wet_bulb_c, _target(hours), settings.seed)
    return curve.curve


def _predict(model: RatioCurve | RisingGrid, train: PlantHours, test: PlantHours) -> Floats:
    moved = model.energy_kwh(test.it_kwh, test.wet_bulb_c)
    return moved + float(train.management_kwh.mean()) if train.is_sub_metered else moved


def _choose(train: PlantHours, settings: FacilityModelSettings) -> str:
    """The kind of model, by a forward test inside the training days, so that the test days choose nothing."""
    if not train.is_sub_metered:
        return "total_only"
    if len(np.unique(train.day)) < settings.challenger_min_days or not can_fit_grid(
        train.it_kwh, train.wet_bulb_c
    ):
        return "reference"
    earlier, later = _forward(train, settings.test_ratio)
    curve = _fit_curve(earlier, _one_resample(settings))
    errors = {
        kind: cv_rmse(later.overhead_kwh, _predict(_model(kind, earlier, curve, settings), earlier, later))
        for kind in ("reference", "monotone_grid")
    }
    plain, rising = errors["reference"], errors["monotone_grid"]
    return "monotone_grid" if plain is not None and rising is not None and rising < plain else "reference"


def _one_resample(settings: FacilityModelSettings) -> FacilityModelSettings:
    """The same settings with the fewest resamples: a choice between models needs no intervals."""
    return settings.model_copy(update={"resamples": 1})


def _error_ratios(
    test: PlantHours, predicted_kwh: Floats, settings: FacilityModelSettings
) -> tuple[float, float]:
    """Measured over predicted overhead at both ends of the interval, mean over resamples of test days."""
    ratios = test.overhead_kwh / np.maximum(predicted_kwh, 1e-9)
    days = np.unique(test.day)
    by_day = [ratios[test.day == day] for day in days]
    rng = np.random.default_rng(settings.seed)
    ends = [
        np.quantile(
            np.concatenate([by_day[at] for at in drawn]), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        )
        for drawn in rng.integers(0, len(days), size=(settings.resamples, len(days)))
    ]
    low, high = np.mean(ends, axis=0)
    return float(low), float(high)


def _intervals(
    fit: CurveFit, hours: PlantHours, settings: FacilityModelSettings
) -> dict[str, tuple[float, float]]:
    """90 % intervals of k1 at wet bulbs that were seen, and of the management load, by resampling days."""
    low_c, high_c = np.quantile(hours.wet_bulb_c, [0.05, 0.95])
    told = {
        f"k1_at_{wet_bulb_c:g}_c": ratio_interval(fit, wet_bulb_c, CONFIDENCE)
        for wet_bulb_c in TOLD_WET_BULBS_C
        if low_c <= wet_bulb_c <= high_c
    }
    if not hours.is_sub_metered:
        return told
    days, index = np.unique(hours.day, return_inverse=True)
    sums = np.bincount(index, weights=hours.management_kwh)
    counts = np.bincount(index)
    drawn = np.random.default_rng(settings.seed).integers(0, len(days), (settings.resamples, len(days)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    management = around(float(hours.management_kwh.mean()), means, len(days), CONFIDENCE)
    return told | {"management_kwh": management}


def _over(part: Floats, whole: Floats) -> float | None:
    """Ratio of sums over the hours in which both are known; None where that is none."""
    known = np.isfinite(part) & np.isfinite(whole)
    total = float(whole[known].sum())
    return float(part[known].sum()) / total if total > 0 else None


def normalised_pue(
    fit: FacilityFit, reference_weather_c: Floats, reference_load_ratio: Floats
) -> float | None:
    """Ratio of sums of facility and IT energy over reference hours, by the site's fitted model.

    `reference_weather_c` are hourly wet bulbs, degC, `reference_load_ratio` the hours' IT energy over the mean of
    the fit's hours; equal shapes (n,), loads above 0. None where the fit is not accepted or the conversion loss is
    unknown. A model figure, never to be mixed with a measured PUE.
    Source: PUE = E_DC / E_IT, ISO/IEC 30134-2; weather normalisation as in ASHRAE Guideline 14, annex on
    whole-building models.
    """
    if len(reference_weather_c) != len(reference_load_ratio) or not len(reference_load_ratio):
        raise ValueError("reference weather and load must be of the same hours, at least one")
    if not fit.accepted or (fit.loss is None and fit.management_kwh is not None):
        return None
    it_kwh = reference_load_ratio * fit.mean_it_kwh
    overhead = predict_overhead(fit, it_kwh, reference_weather_c).total_kwh
    loss = (
        fit.loss.from_output(it_kwh) if fit.loss and fit.management_kwh is not None else np.zeros(len(it_kwh))
    )
    return float((it_kwh + overhead + loss).sum() / it_kwh.sum())
