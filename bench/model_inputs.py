"""The hourly exports of BioHPC servers as `bench.model_sizes` takes them, with lowest and highest of the hour.

Cornell BioHPC Lab, C. Gressel, dc_workload_pipeline (MIT). What the product makes of them is in `bench.models`.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Final

import pandas as pd

from lepton_etl.models.features import TARGET
from lepton_etl.models.fit import order_rows

INVENTORY: Final = Path("conf/examples/biohpc-inventory.csv")
# Silver's hour carries the mean temperature; an export of one row an hour has lowest and highest, too.
BASE: Final = (
    "device_temp_c", "device_temp_min_c", "device_temp_max_c",
    "gpu_utilisation_ratio", "gpu_utilisation_min_ratio", "gpu_utilisation_max_ratio",
    "memory_utilisation_ratio", "memory_utilisation_min_ratio", "memory_utilisation_max_ratio",
)  # fmt: skip
_LOGGED: Final = dict(
    zip(BASE, (a + b for a in ("temp", "util", "gmem") for b in ("ave", "min", "max")), strict=True)
)


def biohpc_hours(folder: Path, inventory: Path) -> pd.DataFrame:
    """One row a server and hour, energy of one board in kWh, with BASE features and `block` (month).

    Stamps are the local wall clock; the second 01:00 of an autumn night is dropped as a duplicate would be.
    Raises SystemExit naming the folder when no file is there.
    """
    files = sorted(folder.glob("*_usage_stats.txt.gz"))
    if not files:
        raise SystemExit(f"bench: no *_usage_stats.txt.gz in {folder}; set LEPTON_REAL_DATA")
    raw = pd.concat([_export(file) for file in files], ignore_index=True)
    known = pd.read_csv(inventory, comment="#").set_index("node_id")
    stamps = pd.to_datetime(raw["timestamp"]).dt.tz_localize("UTC")
    table = pd.DataFrame(
        {
            "site_id": "biohpc", "cluster_id": "gpu", "node_id": raw["name"], "device_id": "gpu",
            "hour_start": stamps, "date": stamps.dt.date, TARGET: raw["powerave"] / 1000,
            "hardware_class": raw["name"].map(known["hardware_class"]),
            "rated_power_w": raw["name"].map(known["gpu_rated_power_w"]).astype(float),
        }
        | {
            name: raw[column] / (100 if name.endswith("_ratio") else 1) for name, column in _LOGGED.items()
        }
    )  # fmt: skip
    hours = order_rows(table.drop_duplicates(["node_id", "hour_start"]))
    hours["block"] = stamps_to_months(hours["hour_start"])
    return hours


def stamps_to_months(stamps: pd.Series[pd.Timestamp]) -> pd.Series[int]:
    """A running number of the calendar month, so that months compare."""
    return stamps.dt.year * 12 + stamps.dt.month - 1


def _export(file: Path) -> pd.DataFrame:
    text = gzip.decompress(file.read_bytes()).decode("utf-8-sig")
    lines = [line for line in text.splitlines() if line.count("\t") == 13]
    return pd.read_csv(io.StringIO("\n".join(lines)), sep="\t")
