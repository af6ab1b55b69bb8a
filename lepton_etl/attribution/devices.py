"""GPU boards and MIG instances of a node: how devices are called, and how a board's energy goes to its instances."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_BOARD: Final = re.compile(r"gpu(\d+)")
_INSTANCE: Final = re.compile(r"gpu(\d+)_mig(\d+)_(\d+)g\..+")
_NUMBERED: Final = re.compile(r"mig(\d+)")


@dataclass(frozen=True, slots=True)
class Unit:
    """What a job can hold of a node's GPUs: a whole board, or one MIG instance of it with its compute slices."""

    device_id: str
    board_id: str
    slices: int = 1


def units_of(device_ids: Iterable[str], gpu_count: int | None) -> list[Unit]:
    """The units of a node by what was measured of it, in order of board and instance.

    A board with instances is held by instance, any other as a whole. Boards that no sensor names count from 0.
    """
    named = sorted(set(device_ids))
    boards = {found[1]: int(found[1]) for name in named if (found := _BOARD.match(name))}
    numbers = sorted(boards.values()) or list(range(gpu_count or 0))
    instances = [(int(found[1]), int(found[2]), int(found[3]), name)
                 for name in named if (found := _INSTANCE.fullmatch(name))]  # fmt: skip
    cut = {board for board, *_ in instances}
    whole = [(board, 0, 1, f"gpu{board}") for board in numbers if board not in cut]
    return [Unit(name, f"gpu{board}", slices) for board, _, slices, name in sorted(instances + whole)]


def held_units(device_ids: Sequence[str] | None, units: Sequence[Unit]) -> list[int] | None:
    """The places in `units` of the devices that a job names; None where one of them is not on the node.

    `gpu2` is a board with all its instances, `mig5` the sixth instance of the node: Slurm numbers them through in
    order of board and instance.
    """
    if not device_ids:
        return None
    instances = [place for place, unit in enumerate(units) if unit.device_id != unit.board_id]
    places: list[int] = []
    for name in device_ids:
        numbered = _NUMBERED.fullmatch(name)
        if numbered:
            found = instances[int(numbered[1]) : int(numbered[1]) + 1]
        else:
            found = [place for place, unit in enumerate(units) if name in (unit.device_id, unit.board_id)]
        if not found:
            return None
        places += found
    return sorted(set(places))


def instance_shares(slices: Array, activity: Array, held: NDArray[np.bool_]) -> Array:
    """Share of a board's energy above idle of each of its instances, shape (instances, intervals).

    slices (instances,), activity (instances, intervals; NaN: unknown), held likewise. Share = slices x activity over
    its sum; where nothing is active or known, by slices over the instances that are held, and 0 where none is.
    Source: CEEMS, recording rules for NVIDIA DCGM: board power x SMs x activity / sum(SMs x activity), and SMs over
    those in use without profiling metrics.
    """
    weight = slices[:, None] * np.nan_to_num(activity)
    weight = np.where(
        np.isnan(activity).any(axis=0) | (weight.sum(axis=0) <= 0), slices[:, None] * held, weight
    )
    total = weight.sum(axis=0)
    return np.asarray(np.divide(weight, total, out=np.zeros_like(weight), where=total > 0))
