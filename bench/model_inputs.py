"""The real tables of `bench.models`, read where they lie; nothing is fitted here.

BioHPC: Cornell BioHPC Lab, C. Gressel, dc_workload_pipeline (MIT). Kepler: kepler-model-db (Apache-2.0). Load
profiles: codecarbon (MIT). Full and idle watts: SPECpower_ssj2008 results by SPEC, through ccf-coefficients.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from bench.device_memory import memory_features, with_memory
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
MEMORY: Final = tuple(feature.name for feature in memory_features(list(BASE)))


def biohpc_hours(folder: Path, inventory: Path) -> pd.DataFrame:
    """One row a server and hour, energy of one board in kWh, with BASE and MEMORY features and `block` (month).

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
    return with_memory(hours, list(BASE))


def stamps_to_months(stamps: pd.Series[pd.Timestamp]) -> pd.Series[int]:
    """A running number of the calendar month, so that months compare."""
    return stamps.dt.year * 12 + stamps.dt.month - 1


def month_name(block: int) -> str:
    return f"{block // 12}-{block % 12 + 1:02d}"


def _export(file: Path) -> pd.DataFrame:
    text = gzip.decompress(file.read_bytes()).decode("utf-8-sig")
    lines = [line for line in text.splitlines() if line.count("\t") == 13]
    return pd.read_csv(io.StringIO("\n".join(lines)), sep="\t")


KEPLER_COUNTERS: Final = (
    "bpf_cpu_time_us", "cache_miss", "cpu_cycles", "cpu_instructions", "cgroupfs_cpu_usage_us",
    "cgroupfs_memory_usage_bytes",
)  # fmt: skip


def kepler_intervals(folder: Path) -> pd.DataFrame:
    """3 s steps of one node: counters, their means over the 15 s and 60 s so far, platform power; ten-minute blocks.

    The BMC reports a running mean, so the last minute's counters belong to a reading. `energy_kwh` is the mean
    power held for an hour.
    """
    file = next(iter(sorted(folder.glob("*acpi_Basic.csv.gz"))))
    raw = pd.read_csv(file).sort_values("timestamp", kind="stable").reset_index(drop=True)
    counters = raw[list(KEPLER_COUNTERS)]
    spans = {f"{n}_{k * 3}s": counters[n].rolling(k, min_periods=1).mean() for n in counters for k in (5, 20)}
    stamps = pd.to_datetime(raw["timestamp"], unit="s", utc=True)
    return counters.assign(
        **spans,
        node_id="nx12",
        hour_start=stamps,
        block=(raw["timestamp"] - raw["timestamp"].iloc[0]).floordiv(600).astype(int),
        energy_kwh=raw["platform_power"] / 1000,
    )


def load_profiles(folder: Path) -> pd.DataFrame:
    """Steps of CPU load: `cpu_utilisation_ratio`, share of cores, frequency and power of the step in W.

    Power is `rapl_energy` / duration: the file's `rapl_power` is that of the row before
    (docs/definitions.md section 9).
    """
    frames = []
    for file in sorted(folder.glob("*.csv")):
        raw = pd.read_csv(file)
        frames.append(
            pd.DataFrame(
                {
                    "cpu": raw["cpu_name"], "load_type": raw["load_type"],
                    "cpu_utilisation_ratio": raw["cpu_load"] / 100, "frequency_mhz": raw["cpu_freq"],
                    "power_w": raw["rapl_energy"] * 3.6e6 / raw["duration"],
                }
            )
        )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def spec_results(folder: Path) -> pd.DataFrame:
    """Servers of SPECpower_ssj2008: watts at full load and active idle, cores, chips, MHz, memory; year as block."""
    file = next(iter(sorted(folder.glob("SPECpower-*.csv.gz"))))
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        raw = pd.DataFrame(list(csv.DictReader(lines)))
    numbers = {
        "full_w": "avg. watts @ 100%", "idle_w": "avg. watts @ active idle", "cores": "# Cores", "chips": "Chips",
        "clock_mhz": "Processor MHz", "memory_gib": "Total Memory (GB)", "threads": "Total Threads",
    }  # fmt: skip
    table = pd.DataFrame({name: pd.to_numeric(raw[col], errors="coerce") for name, col in numbers.items()})
    table["vendor"] = raw["Hardware Vendor"].str.split().str[0]
    table["block"] = pd.to_numeric(raw["Published"].str[-4:], errors="coerce")
    table["cpu_make"] = np.where(raw["CPU Description"].str.contains("AMD"), "AMD", "other")
    return table.dropna(subset=["full_w", "idle_w", "block"]).reset_index(drop=True)
