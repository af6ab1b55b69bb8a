"""How sure every interval of this system is: two-sided, 90 %."""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

CONFIDENCE: Final = 0.9
# Two-sided: 5 % of a normal error lie above +1.645 sigma and 5 % below -1.645 sigma.
Z: Final = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
