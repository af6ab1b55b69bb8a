"""Keep a plan from burdening one tenant: choose proposals so that nobody bears more than a share of what all bear.

The choice is an integer programme: keep the proposals of most saving such that of each tenant t
sum_i (b_it - s b_i) x_i <= 0, with b the burden of a proposal on a tenant and on all, s the largest share. What the
limit costs is the saving of all proposals less that of those kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import polars as pl

from lepton_etl.recommend.job_problem import Bools, Floats

if TYPE_CHECKING:
    from lepton_etl.recommend.advice import Advice

# Beyond this the best choice that was found by then is taken.
_SECONDS: Final = 10.0
_GAP_RATIO: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Price:
    """What a limit on one tenant's share of a burden costs: savings in kWh and kgCO2e (None: not known).

    `share_max_ratio` is the limit that holds: the one of the settings, or an equal share where that is larger.
    """

    burden_kind: Literal["cap", "delay"]
    share_max_ratio: float
    proposals: int
    left_out: int
    all_saving_kwh: float
    forgone_saving_kwh: float
    forgone_saving_kgco2e: float | None = None

    @property
    def forgone_saving_ratio(self) -> float | None:
        """Return the share of the energy saving that is forgone; None where all proposals together save none."""
        return self.forgone_saving_kwh / self.all_saving_kwh if self.all_saving_kwh > 0 else None

    def __str__(self) -> str:
        share = "" if self.forgone_saving_ratio is None else f" ({self.forgone_saving_ratio:.1%})"
        carbon = self.forgone_saving_kgco2e
        emissions = "" if carbon is None else f" and {carbon:,.2f} kgCO2e"
        return (
            f"{self.burden_kind}: no tenant bears more than {self.share_max_ratio:.0%}; {self.left_out} of "
            f"{self.proposals} proposals are left out, {self.forgone_saving_kwh:,.2f} kWh{share}{emissions} forgone"
        )


def equal_or(share_max_ratio: float, burden: Floats) -> float:
    """Return the limit, or the equal share of those who bear any of `burden` (n, T): less than that nobody can keep."""
    bearers = int((burden.sum(axis=0) > 0).sum())
    return max(share_max_ratio, 1 / max(bearers, 1))


def within_share(
    saving: Floats, burden: Floats, share_max_ratio: float, room: tuple[Floats, Floats] | None = None
) -> Bools:
    """Return which proposals (n,) to keep: the most saving of which no tenant bears more than the share.

    `burden` (n, T), none negative, is what each proposal costs each tenant; `room` (m, n) and (m,) are what each one
    takes more of m things than without it, and what is free of them. Where none is kept nobody is burdened.
    """
    from scipy.optimize import LinearConstraint, milp

    count = len(saving)
    whole = burden.sum(axis=1)
    if not whole.any():
        return np.ones(count, dtype=np.bool_)
    limit = equal_or(share_max_ratio, burden)
    # Of the size of one, for the solver's tolerances.
    shares = (burden - limit * whole[:, None]).T / whole.max()
    constraints = [LinearConstraint(shares, ub=0.0)]
    if room is not None:
        constraints.append(LinearConstraint(room[0], ub=room[1]))
    found = milp(
        -saving / max(float(np.abs(saving).max()), 1e-12), integrality=np.ones(count), bounds=(0, 1),
        constraints=constraints, options={"time_limit": _SECONDS, "mip_rel_gap": _GAP_RATIO},
    )  # fmt: skip
    return np.zeros(count, dtype=np.bool_) if found.x is None else np.asarray(found.x > 0.5)


def fair_caps(
    advice: Sequence[Advice], held: pl.DataFrame, share_max_ratio: float
) -> tuple[list[Advice], Price]:
    """Return the caps to keep, and what the limit costs; `held` is tenant_id, job_class and gpu_h of the newest day.

    The burden of a cap on a tenant is its expected slowdown x the GPU-hours of the tenant's jobs of the class.
    """
    tenants = held["tenant_id"].unique(maintain_order=True).to_list()
    hours = {(row["job_class"], row["tenant_id"]): row["gpu_h"] for row in held.to_dicts()}
    burden = np.array(
        [
            [slowdown_of(one) * hours.get((one.subject.job_class, tenant), 0.0) for tenant in tenants]
            for one in advice
        ]
    ).reshape(len(advice), len(tenants))
    saving = np.array([one.saving_kwh.value if one.saving_kwh is not None else 0.0 for one in advice])
    kept = within_share(saving, burden, share_max_ratio)
    price = Price(
        "cap", equal_or(share_max_ratio, burden), len(advice), int((~kept).sum()), float(saving.sum()),
        float(saving[~kept].sum()),
    )  # fmt: skip
    return [one for one, is_kept in zip(advice, kept, strict=True) if is_kept], price


def slowdown_of(advice: Advice) -> float:
    """Return the expected slowdown of a cap, 0 where it is none."""
    return max(advice.slowdown_ratio.value, 0.0) if advice.slowdown_ratio is not None else 0.0
