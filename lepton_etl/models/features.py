"""Declare the features of E = f(P, T, L), and guard that the target stays out of them.

The target `energy_kwh` is the energy of **one device over one full hour**: the time-weighted mean power of
the hour times one hour; of a shared mean (multiplicity 2) it is the energy of one of the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from lepton_etl.config.sections import DeviceKind
from lepton_etl.errors import ModelError

TARGET: Final = "energy_kwh"
TARGET_UNIT: Final = "kilowatt_hour"
UNKNOWN: Final = "unknown"
KEYS: Final = ("site_id", "cluster_id", "node_id", "device_id", "hour_start")

# Columns of silver/interval that are the target, or a statistic or an error of it.
POWER_COLUMNS: Final = frozenset(
    {
        "energy_kwh",
        "power_min_w",
        "power_mean_w",
        "power_max_w",
        "gain_sigma_kwh",
        "resolution_sigma_kwh",
        "sampling_sigma_kwh",
    }
)
# Physical power among the features is that of the inventory (nameplate, idle) and nothing else.
_NAMEPLATE: Final = frozenset({"rated_power_w", "idle_power_w"})
_NAMEPLATE_COLUMNS: Final = frozenset(
    {"rated_power_w", "gpu_rated_power_w", "idle_power_w", "gpu_idle_power_w"}
)
_POWER_NAME: Final = re.compile(
    r"(power|energy|watt|kwh|joule|gco2|_w|_wh|_j)($|_|(?=\d))|^(power|energy|watt)"
)


@dataclass(frozen=True, slots=True)
class Feature:
    """One model input: its unit, what it is, and the table columns it is made from."""

    name: str
    unit: str
    description: str
    made_from: tuple[str, ...]
    category: bool = False


def _load(column: str, what: str) -> tuple[Feature, ...]:
    stem = column.removesuffix("_ratio")
    return (
        Feature(column, "dimensionless", f"{what}, time-weighted mean of the hour.", (column,)),
        Feature(f"{stem}_min_ratio", "dimensionless", f"{what}, lowest interval of the hour.", (column,)),
        Feature(f"{stem}_max_ratio", "dimensionless", f"{what}, highest interval of the hour.", (column,)),
    )


_GPU_COUNT = Feature("gpu_count", "dimensionless", "GPUs of the node, inventory.", ("gpu_count",))
_CLASS = Feature(
    "hardware_class",
    "",
    f"Hardware class of the inventory, or '{UNKNOWN}'.",
    ("hardware_class",),
    category=True,
)

FEATURES: Final[dict[DeviceKind, tuple[Feature, ...]]] = {
    "node": (
        Feature("rated_power_w", "watt", "Rated power of the node, inventory.", ("rated_power_w",)),
        Feature("idle_power_w", "watt", "Idle power of the node, inventory.", ("idle_power_w",)),
        Feature("inlet_temp_c", "degree_Celsius", "Mean inlet temperature of the hour.", ("inlet_temp_c",)),
        *_load("cpu_utilisation_ratio", "CPU utilisation"),
        *_load("gpu_utilisation_ratio", "GPU utilisation"),
        *_load("memory_utilisation_ratio", "Memory in use of the node, else of its GPUs"),
        _GPU_COUNT,
        _CLASS,
    ),
    "gpu": (
        Feature("rated_power_w", "watt", "Rated board power of one GPU, inventory.", ("gpu_rated_power_w",)),
        Feature("idle_power_w", "watt", "Idle board power of one GPU, inventory.", ("gpu_idle_power_w",)),
        Feature(
            "device_temp_c",
            "degree_Celsius",
            "Mean die temperature; follows power: for diagnosis and imputation, never for cooling.",
            ("device_temp_c",),
        ),
        *_load("gpu_utilisation_ratio", "GPU utilisation"),
        *_load("memory_utilisation_ratio", "GPU memory utilisation"),
        _GPU_COUNT,
        _CLASS,
    ),
}


def feature_names(device: DeviceKind) -> tuple[str, ...]:
    return tuple(feature.name for feature in FEATURES[device])


def described(features: Iterable[Feature]) -> tuple[dict[str, Any], ...]:
    """Return the columns as a stored model carries them: name, unit, description, whether it is a category."""
    return tuple(
        {"name": f.name, "unit": f.unit, "description": f.description, "category": f.category}
        for f in features
    )


def refuse_power_features(features: Iterable[Feature]) -> None:
    """Raise ModelError when a feature is, or is made from, a statistic of the target's power.

    Source: docs/definitions.md section 8 (powermin and powermax leak).
    """
    for feature in features:
        named = feature.name not in _NAMEPLATE and _POWER_NAME.search(feature.name)
        sources = set(feature.made_from)
        nameplate = feature.name in _NAMEPLATE and not sources <= _NAMEPLATE_COLUMNS
        if named or nameplate or sources & POWER_COLUMNS:
            raise ModelError(
                f"feature {feature.name!r} (from {', '.join(feature.made_from)}) is a statistic of power",
                where="lepton_etl/models/features.py",
                remedy="remove it, the target leaks; of power only what the inventory states is a feature",
            )
