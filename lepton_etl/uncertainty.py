"""How sure every interval of this system is: two-sided, 90 %."""

from __future__ import annotations

from math import ceil
from statistics import NormalDist
from typing import Final

CONFIDENCE: Final = 0.9
# Two-sided: 5 % of a normal error lie above +1.645 sigma and 5 % below -1.645 sigma.
Z: Final = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
# With half of what is left out on each side, the share below the upper end.
UPPER: Final = 0.5 + CONFIDENCE / 2


def conformal_rank(count: int, level: float) -> int:
    """Which of `count` sorted residuals, counted from 1, bounds a new one with probability `level`.

    Above `count` where so few say nothing. Source: split-conformal quantile ceil((n + 1) level) / n, Lei et al.,
    JASA 113 (2018) 1094.
    """
    # (n + 1) x level may be a whole number but for its last bit.
    return ceil((count + 1) * level - 1e-9)
