"""The linear and integer programme over places: every class its count, every hour of a group its units."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import csc_array

from lepton_etl.recommend.schedule.arrays import Arrays, Place
from lepton_etl.recommend.schedule.classes import Classes
from lepton_etl.recommend.schedule.inputs import Floats
from lepton_etl.recommend.schedule.prices import curve_ends, curve_steps, left_out


@dataclass(frozen=True, slots=True)
class Relaxed:
    """A relaxed solution: its value, counts by column, prices of classes (C,) and of a unit in an hour (G, H)."""

    value: float
    counts: Floats
    class_price: Floats
    unit_price: Floats


@dataclass(slots=True)
class Master:
    """Columns (class, place) so far. Costs are scaled by `scale` inside, so that solver tolerances mean the same."""

    arrays: Arrays
    classes: Classes
    scale: float = 1.0
    left_out: Floats = field(default_factory=lambda: np.zeros(0))
    columns: list[tuple[int, Place]] = field(default_factory=list)
    costs: list[float] = field(default_factory=list)
    _seen: set[tuple[int, Place]] = field(default_factory=set)

    @staticmethod
    def of(arrays: Arrays, classes: Classes) -> Master:
        """An empty master with its charges."""
        charged = left_out(arrays, classes)
        return Master(arrays, classes, scale=float(np.median(charged)) / 100.0 or 1.0, left_out=charged)

    def add(self, of_class: int, place: Place) -> bool:
        """Whether the column is new."""
        key = (of_class, place)
        if key in self._seen:
            return False
        self._seen.add(key)
        self.columns.append(key)
        self.costs.append(self.arrays.own_cost(int(self.classes.first[of_class]), place))
        return True

    def relax(self, seconds: float) -> Relaxed | None:
        """The linear relaxation over the columns so far by HiGHS; None where it did not finish in time.

        Its interior-point method with crossover: a quarter of the simplex's time on 10,000 classes.
        """
        counts, used = self.classes.counts, np.zeros_like(self.arrays.capacity)
        program = self._program(np.arange(len(self.classes.members)), used)
        done = linprog(
            program.cost, A_eq=program.rows, b_eq=np.concatenate([counts, -used.ravel()]),
            bounds=np.column_stack([np.zeros_like(program.upper), program.upper]), method="highs-ipm",
            options={"time_limit": max(seconds, 0.1)},
        )  # fmt: skip
        if done.status != 0:
            return None
        prices = np.asarray(done.eqlin.marginals) * self.scale
        classes = len(counts)
        return Relaxed(
            float(done.fun) * self.scale,
            np.asarray(done.x[: len(self.columns)]),
            prices[:classes],
            prices[classes:].reshape(self.arrays.capacity.shape) * -1.0,
        )

    def integers(
        self, counts: Floats, used: Floats, seconds: float, gap_ratio: float
    ) -> tuple[Floats, float, bool] | None:
        """Whole numbers of jobs by column for the classes with `counts` (C,) left, beside `used` units (G, H).

        With HiGHS's own lower bound on these columns, and whether it came to the end; None: nothing found in time.
        """
        open_classes = np.flatnonzero(counts > 0)
        program = self._program(open_classes, used)
        wanted = np.concatenate([counts[open_classes], -used.ravel()])
        done = milp(
            program.cost, integrality=program.whole, bounds=Bounds(np.zeros_like(program.upper), program.upper),
            constraints=LinearConstraint(program.rows, wanted, wanted),
            options={"time_limit": max(seconds, 0.1), "mip_rel_gap": gap_ratio},
        )  # fmt: skip
        if done.x is None:
            return None
        found = np.zeros(len(self.columns))
        found[program.columns] = np.round(done.x[: len(program.columns)])
        return found, float(done.mip_dual_bound) * self.scale, done.status == 0

    def _program(self, open_classes: np.ndarray[tuple[int], np.dtype[np.int64]], used: Floats) -> _Program:
        """Columns: the open classes' places, one `left out` a class, the curve's steps of each hour."""
        arrays, hours = self.arrays, self.arrays.hours
        row_of = np.full(len(self.classes.members), -1)
        row_of[open_classes] = np.arange(len(open_classes))
        classes = np.array([c for c, _ in self.columns], dtype=np.int64)
        chosen = np.flatnonzero(row_of[classes] >= 0) if len(classes) else np.zeros(0, dtype=np.int64)
        row: list[int] = []
        value: list[float] = []
        sizes = []
        for column in chosen:
            of_class, place = self.columns[column]
            units = float(arrays.units[self.classes.first[of_class]])
            row.append(int(row_of[of_class]))
            value.append(1.0)
            base = len(open_classes) + place.group * hours
            row.extend([base + slot for slot in place.slots])
            value.extend([units] * len(place.slots))
            sizes.append(1 + len(place.slots))
        left, ends = np.arange(len(open_classes)), curve_ends(arrays).ravel()
        steps = arrays.widths.shape[1]
        hour_rows = len(open_classes) + np.repeat(np.arange(arrays.capacity.size), steps)
        rows = csc_array(
            (
                np.concatenate([value, np.ones(len(left)), -np.ones(len(hour_rows))]),
                np.concatenate([row, left, hour_rows]).astype(np.int64),
                np.concatenate([[0], np.cumsum([*sizes, *[1] * (len(left) + len(hour_rows))])]).astype(np.int64),
            ),
            shape=(len(open_classes) + arrays.capacity.size, len(chosen) + len(left) + len(hour_rows)),
        )  # fmt: skip
        cost = np.concatenate(
            [np.array(self.costs)[chosen], self.left_out[open_classes], curve_steps(arrays).ravel()]
        )
        free = np.full(len(chosen) + len(left), np.inf)
        whole = np.concatenate([np.ones(len(chosen) + len(left)), np.zeros(len(hour_rows))])
        return _Program(cost / self.scale, rows, np.concatenate([free, ends]), whole, chosen)


@dataclass(frozen=True, slots=True)
class _Program:
    cost: Floats
    rows: csc_array
    upper: Floats
    whole: Floats
    columns: np.ndarray[tuple[int], np.dtype[np.int64]]
