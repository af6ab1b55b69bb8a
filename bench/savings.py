"""Ten percent less, proven: every row of the table from a run of its part.

    python -m bench.savings [--parts caps placebo plan shift site] [--seeds 20] [--workers 2]

The parts run alone too: `python -m bench.savings_caps` and so on; each docstring says what sees what.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Final

from bench import savings_caps, savings_placebo, savings_plan, savings_shift, savings_site
from bench.inputs import REAL
from bench.measure import Figure, print_figures, write

UTILISATIONS: Final = (0.50, 0.70, 0.85)
# The levers one by one cost as much as all together each: on fewer seeds.
SPLIT_SEEDS: Final = 5


def main() -> None:
    """Print the parts and then one table; write var/bench/savings.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20, help="of the simulated site, for each utilisation")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parts: dict[str, Callable[[argparse.Namespace], list[Figure]]] = {
        "caps": lambda _: savings_caps.figures(),
        "placebo": lambda _: savings_placebo.figures(),
        "plan": lambda _: savings_plan.figures(),
        "shift": lambda _: savings_shift.figures(),
        "site": lambda asked: savings_site.figures(
            REAL, list(UTILISATIONS), asked.seeds, asked.workers, min(asked.seeds, SPLIT_SEEDS)
        )[0],
    }
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    asked = parser.parse_args()
    found = [one for name in asked.parts for one in parts[name](asked)]
    print_figures("Savings", found)
    write("savings", found)


if __name__ == "__main__":
    main()
