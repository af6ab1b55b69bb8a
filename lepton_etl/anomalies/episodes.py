"""From hourly scores to gold/anomaly: episodes with begin, end, excess, confidence and the reason in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.anomalies.detect import RACK, Bound, Scores, score
from lepton_etl.anomalies.hours import DeviceHours, Floats
from lepton_etl.anomalies.statistics import DRIFT_DAYS, IDLE_H, RACK_H, SCALE_H, STEP_H, STUCK_H

KINDS: Final = ("stuck", "idle_but_drawing", "drift", "scale", "step")
WINDOW_H: Final = {
    "stuck": STUCK_H, "drift": DRIFT_DAYS * 24, "scale": SCALE_H, "step": STEP_H, "idle_but_drawing": IDLE_H,
    RACK: RACK_H,
}  # fmt: skip
JOIN_H: Final = 6
_WORDS: Final = {
    "stuck": "the reading stood still while the load moved",
    "drift": "the gain crept from day to day",
    "scale": "all readings were off by one factor for days",
    "step": "the reading left its expected level",
    "idle_but_drawing": "it drew power without work",
    RACK: "all nodes of the rack moved together",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Span:
    """Hours start..end-1 in which a kind is said to have lasted, and its highest score."""

    kind: str
    start: int
    end: int
    score: float


def spans(kind: str, values: Floats) -> list[Span]:
    """Stretches of scores above 1, joined over JOIN_H hours; each begins half a window before its first alarm.

    A trailing window alarms when about half of it is faulty, so the fault began about half a window earlier.
    """
    above = np.flatnonzero(np.nan_to_num(values) > 1)
    if not len(above):
        return []
    cuts = np.flatnonzero(np.diff(above) > JOIN_H) + 1
    found = []
    for part in np.split(above, cuts):
        start = max(0, int(part[0]) - WINDOW_H[kind] // 2)
        found.append(Span(kind, start, int(part[-1]) + 1, float(np.nanmax(values[part[0] : part[-1] + 1]))))
    return found


def device_spans(by_kind: dict[str, Floats]) -> list[Span]:
    """The episodes of one device; one mostly inside another that scores higher is left out, and whatever a
    stuck sensor says beside is its own."""
    every = [span for kind in KINDS if kind in by_kind for span in spans(kind, by_kind[kind])]
    kept: list[Span] = []
    for one in sorted(every, key=lambda span: (span.kind != "stuck", -span.score, span.start)):
        shared = max((min(one.end, k.end) - max(one.start, k.start) for k in kept), default=0)
        if shared * 2 <= one.end - one.start:
            kept.append(one)
    return sorted(kept, key=lambda one: (one.start, one.kind))


def anomaly_rows(history: Sequence[DeviceHours], hours: Sequence[DeviceHours]) -> pl.DataFrame:
    """Rows of gold/anomaly for the devices of one rack, largest absolute excess first.

    `history` are the hours before `hours`, without a gap. A device without enough history has no
    row: unknown is not odd.
    """
    devices, shared, bound = score(history, hours)
    rows: list[dict[str, Any]] = []
    for device in devices:
        for span in device_spans(device.by_kind):
            rows.append(_row(device, span))
    if shared is not None and bound is not None:
        rows += _rack_rows(devices, shared, bound)
    frame = pl.DataFrame(rows, schema_overrides={"rack_id": pl.String}) if rows else pl.DataFrame()
    return frame.sort(pl.col("excess_kwh").abs(), descending=True) if rows else frame


def _row(device: Scores, span: Span) -> dict[str, Any]:
    one = device.hours
    excess, ratio = _excess(device, span)
    bound = device.learnt.bounds.get(span.kind) or device.learnt.bounds[f"{span.kind}_idle"]
    words = (
        f"{one.node_id} {one.device_id}: {_WORDS[span.kind]} from {one.hour(span.start):%Y-%m-%d %H:%M} for "
        f"{span.end - span.start} h; {ratio:+.0%} against expected, {excess:+.2f} kWh; score {span.score:.1f}, "
        f"bound from {len(bound.daily_maxima)} days"
    )
    return _cells(
        one, span, one.node_id, one.device_id, excess, bound.confidence(span.score * bound.bound), words
    )


def _rack_rows(devices: Sequence[Scores], shared: Floats, bound: Bound) -> Iterable[dict[str, Any]]:
    first = devices[0].hours
    for span in spans(RACK, np.abs(shared) / bound.bound):
        parts = [_excess(device, span) for device in devices]
        excess = sum(part[0] for part in parts)
        words = (
            f"rack {first.rack_id}: {_WORDS[RACK]} from {first.hour(span.start):%Y-%m-%d %H:%M} for "
            f"{span.end - span.start} h, {len(devices)} devices; {excess:+.2f} kWh; score {span.score:.1f}"
        )
        yield _cells(first, span, None, None, excess, bound.confidence(span.score * bound.bound), words)


def _excess(device: Scores, span: Span) -> tuple[float, float]:
    """Measured less expected energy, kWh, and their ratio less 1, the usual bias taken off.

    Unknown hours add nothing.
    """
    cut: slice = slice(span.start, span.end)
    part = device.hours
    deviation, _ = device.learnt.normal.deviation(part)
    measured: NDArray[np.float64] = part.measured_kwh[cut]
    known = np.isfinite(deviation[cut])
    usual = measured[known] * np.exp(-deviation[cut][known])
    excess = float((measured[known] - usual).sum())
    return excess, excess / float(usual.sum()) if usual.sum() > 0 else 0.0


def _cells(
    one: DeviceHours,
    span: Span,
    node: str | None,
    device: str | None,
    excess: float,
    confidence: float,
    words: str,
) -> dict[str, Any]:
    start = one.hour(span.start)
    name = "|".join(
        map(str, (one.site_id, one.cluster_id, one.rack_id, node, device, span.kind, start.isoformat()))
    )
    return {
        "anomaly_id": sha256(name.encode()).hexdigest()[:32], "date": start.date(), "site_id": one.site_id,
        "cluster_id": one.cluster_id, "rack_id": one.rack_id, "node_id": node, "device_id": device,
        "anomaly_kind": span.kind, "start_time": start, "end_time": one.hour(span.end), "excess_kwh": excess,
        "anomaly_score": span.score, "confidence_ratio": confidence, "explanation": words,
    }  # fmt: skip
