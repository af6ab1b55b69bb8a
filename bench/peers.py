"""What a user would pick instead, each as good as we could write it: python -m bench.peers PEER KIND INPUT OUTPUT.

Every peer writes the same long rows: file, position, sensor, reading_time, value (and of ipmitool what a reading also
says: quantity, device, text and unit as logged). The sensors to keep stand in `mapping.csv` (bench/mapping.py).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench import duck_peer, floor, polars_peer, spark_peer
from bench.measure import Run

PEERS: Final[dict[str, Callable[[str, Path, Path, int], Run]]] = {
    "duckdb": duck_peer.run,
    "polars": polars_peer.run,
    "spark": spark_peer.run,
    "floor": floor.run,
}


def main(peer: str, kind: str, folder: Path, target: Path) -> None:
    target.mkdir(parents=True)
    run = PEERS[peer](kind, folder, target, len(os.sched_getaffinity(0)))
    print(json.dumps(asdict(run)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
