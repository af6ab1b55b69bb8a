"""Is the challenger no worse where it counts: in every hardware class and every cluster with enough hours?"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from lepton_etl.models.metrics import Values, errors

SCOPES: Final = ("hardware_class", "cluster_id")


def worse_scopes(
    hours: pd.DataFrame,
    measured_kwh: Values,
    challenger_kwh: Values,
    champion_kwh: Values,
    *,
    tolerance_ratio: float,
    min_rows: int,
) -> list[str]:
    """One sentence for each class or cluster where the challenger's CV(RMSE) exceeds the champion's by the tolerance.

    `hours` has the columns of SCOPES it is to be judged by; energies (n,) in kWh of the same forward test hours.
    """
    found = []
    for scope in SCOPES:
        if scope not in hours:
            continue
        of_row = hours[scope].fillna("unknown").astype(str).to_numpy(dtype=object)
        for name in sorted(set(of_row)):
            inside = np.asarray(of_row == name, dtype=np.bool_)
            if int(inside.sum()) < min_rows:
                continue
            ours = errors(measured_kwh[inside], challenger_kwh[inside]).cv_rmse_ratio
            theirs = errors(measured_kwh[inside], champion_kwh[inside]).cv_rmse_ratio
            if ours is not None and theirs is not None and ours > theirs * (1 + tolerance_ratio):
                found.append(f"{scope} {name}: CV(RMSE) {ours:.2%} worse than the champion's {theirs:.2%}")
    return found
