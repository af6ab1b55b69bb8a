"""Vega-Lite specifications of the report's charts, as plain dictionaries.

Pure: small Arrow tables in, a specification with its data inside out. Nothing names a URL: `$schema` is
left out (the page tells the embedder that it is Vega-Lite) and the colours of text come from the page.
Equal tables give equal specifications.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import altair as alt
import pyarrow as pa
import pyarrow.compute as pc

Spec = dict[str, Any]

# Okabe and Ito's colours, told apart by colour-blind readers, with a lighter blue and without the
# yellow and black that one of the two backgrounds swallows. Source: https://jfly.uni-koeln.de/color/
COLOURS: Final = ("#1A7FC1", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C")
SHAPES: Final = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke")
MOST_SERIES: Final = len(COLOURS)
OTHERS: Final = "others"

COVERAGE_CLASSES: Final = ("none", "below 50 %", "50 to 90 %", "90 to 100 %", "complete")
_COVERAGE_LIMITS: Final = tuple(zip((0.5, 0.9, 0.9995), COVERAGE_CLASSES[1:4], strict=True))
_COVERAGE_COLOURS: Final = ("#8C2D04", "#D55E00", "#F2B36B", "#9CC3E0", "#2B6CA3")


def plain(table: pa.Table) -> list[dict[str, Any]]:
    """Rows for a specification: times as ISO UTC, numbers to six significant digits."""
    return [{name: _plain_value(value) for name, value in row.items()} for row in table.to_pylist()]


def _plain_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _chart(dataset: str = "rows") -> alt.Chart:
    return alt.Chart(alt.NamedData(name=dataset))


def _finish(chart: Any, **datasets: list[dict[str, Any]]) -> Spec:
    """The chart as a dictionary; rows join last, for Altair would check each of them against its schema."""
    spec: Spec = chart.to_dict()
    for key in ("$schema", "config"):
        spec.pop(key, None)
    return spec | {"datasets": datasets}


def _time_axis(rows: Sequence[Mapping[str, Any]]) -> alt.X:
    """A UTC axis: midnight is labelled by its day (with the year where there are several), else by the hour."""
    day = "%-d %b" if len({row["time"][:4] for row in rows}) == 1 else "%-d %b %Y"
    midnight = "utchours(datum.value) == 0 && utcminutes(datum.value) == 0"
    axis = alt.Axis(
        # Of labels that would touch, every second one goes: days stay, whatever the width.
        labelOverlap="parity",
        tickCount=10,
        grid=False,
        labelExpr=f"utcFormat(datum.value, {midnight} ? '{day}' : '%H:%M')",
    )
    return alt.X("time:T", title="UTC", scale=alt.Scale(type="utc"), axis=axis)


def _palette(names: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[COLOURS[i % MOST_SERIES] for i in range(len(names))])


def _utc(field: str = "time", title: str = "UTC") -> alt.Tooltip:
    return alt.Tooltip(f"{field}:T", title=title, format="%Y-%m-%d %H:%M", formatType="utc")


def series_over_time(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], *, unit: str, description: str
) -> Spec:
    """Lines by `series` over `time` with the band `lower`..`upper`; an unknown value is a gap, not a zero."""
    points = len(rows) / max(1, len(names)) <= 80
    base = _chart().encode(
        x=_time_axis(rows),
        color=alt.Color("series:N", title=None, scale=_palette(names), legend=_legend()),
    )
    value = alt.Y("value:Q", title=unit, scale=alt.Scale(zero=True))
    tooltip = [
        alt.Tooltip("series:N", title="cluster"), _utc(),
        alt.Tooltip("value:Q", title=unit, format=",.4~r"),
    ]  # fmt: skip
    layers: list[Any] = []
    if any(row.get("lower") is not None for row in rows):
        layers.append(
            base.mark_area(opacity=0.18, invalid="break-paths-filter-domains")
            .encode(y=alt.Y("lower:Q", title=unit), y2="upper:Q")
        )  # fmt: skip
        tooltip += [
            alt.Tooltip("lower:Q", title="90 % from", format=",.4~r"),
            alt.Tooltip("upper:Q", title="90 % to", format=",.4~r"),
        ]
    mark = base.mark_line(
        strokeWidth=2, invalid="break-paths-filter-domains", point={"size": 22} if points else False
    )
    layers.append(mark.encode(y=value, tooltip=tooltip))
    chart = alt.layer(*layers).properties(width="container", height=230, description=description)
    return _finish(chart, rows=[dict(row) for row in rows])


def _legend(columns: int = 8) -> alt.Legend:
    return alt.Legend(orient="top", columns=columns, symbolOpacity=1, labelLimit=160)


def scatter(table: pa.Table, x: str, *, x_title: str, x_format: str, y_title: str, description: str) -> Spec:
    """Power against load or temperature, a mark an hour, colour and shape by hardware class."""
    drawn = table.filter(pc.and_(pc.is_valid(table[x]), pc.is_valid(table["power_w"])))
    classes = most_frequent(drawn["hardware_class"].to_pylist())
    rows = plain(drawn.select(["node_id", "device_id", "hardware_class", "hour_start", "power_w", x]))
    for row in rows:
        row["class"] = row.pop("hardware_class") or "unknown class"
        row["class"] = row["class"] if row["class"] in classes else OTHERS
    names = [name for name in [*classes, OTHERS] if any(row["class"] == name for row in rows)]
    shapes = alt.Scale(domain=names, range=[SHAPES[i % len(SHAPES)] for i in range(len(names))])
    percent = x_format.endswith("%")
    x_scale = alt.Scale(domain=[0, 1]) if percent else alt.Scale(zero=False, nice=True)
    legend = _legend(2)
    chart = (
        _chart()
        .mark_point(filled=True, size=26, opacity=0.55)
        .encode(
            x=alt.X(
                f"{x}:Q",
                title=x_title,
                scale=x_scale,
                axis=alt.Axis(format=".0%" if percent else "~g", tickCount=6),
            ),
            y=alt.Y("power_w:Q", title=y_title, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=6)),
            color=alt.Color("class:N", title=None, scale=_palette(names), legend=legend),
            shape=alt.Shape("class:N", title=None, scale=shapes, legend=legend),
            tooltip=[
                alt.Tooltip("node_id:N", title="node"),
                alt.Tooltip("device_id:N", title="device"),
                alt.Tooltip("class:N", title="hardware"),
                _utc("hour_start", "hour, UTC"),
                alt.Tooltip("power_w:Q", title="mean power, W", format=",.4~r"),
                alt.Tooltip(f"{x}:Q", title=x_title, format=x_format),
            ],
        )
    )
    return _finish(chart.properties(width="container", height=280, description=description), rows=rows)


def most_frequent(names: Iterable[str | None], most: int = MOST_SERIES - 1) -> list[str]:
    """The most frequent names, most frequent first, equal counts in alphabetical order."""
    counts: dict[str, int] = {}
    for name in names:
        label = name or "unknown class"
        counts[label] = counts.get(label, 0) + 1
    return sorted(counts, key=lambda label: (-counts[label], label))[:most]


def coverage_class(ratio: float | None) -> str | None:
    if ratio is None:
        return None
    if ratio <= 0:
        return COVERAGE_CLASSES[0]
    return next((name for limit, name in _COVERAGE_LIMITS if ratio < limit), COVERAGE_CLASSES[-1])


def coverage_map(cells: pa.Table, bucket_hours: int, description: str) -> Spec:
    """Heat map of coverage, node by time; the node with the least coverage stands on top."""
    sums: dict[str, list[float]] = {}
    rows = plain(cells.rename_columns(["node_id", "time", "coverage_ratio"]))
    for row in rows:
        row["class"] = coverage_class(row["coverage_ratio"])
        if row["coverage_ratio"] is not None:
            sums.setdefault(row["node_id"], []).append(row["coverage_ratio"])
    rows = [row for row in rows if row["class"] is not None]
    for row in rows:
        start = datetime.fromisoformat(row["time"].replace("Z", "+00:00")).timestamp() + bucket_hours * 3600
        row["end"] = int(start * 1000)
    order = sorted(sums, key=lambda node: (sum(sums[node]) / len(sums[node]), node))
    chart = (
        _chart()
        .mark_rect(stroke="transparent")
        .encode(
            x=_time_axis(rows),
            x2="end:T",
            y=alt.Y("node_id:N", title=None, sort=order, axis=alt.Axis(labelLimit=190, labelOverlap=False)),
            color=alt.Color(
                "class:N", title="share of seconds observed", legend=_legend(5), sort=list(COVERAGE_CLASSES),
                scale=alt.Scale(domain=list(COVERAGE_CLASSES), range=list(_COVERAGE_COLOURS)),
            ),
            tooltip=[
                alt.Tooltip("node_id:N", title="node"), _utc(),
                alt.Tooltip("coverage_ratio:Q", title="coverage", format=".2%"),
            ],
        )
    )  # fmt: skip
    sized = chart.properties(width="container", height={"step": 14}, description=description)
    return _finish(sized, rows=rows)


def predicted_against_measured(table: pa.Table, description: str) -> Spec:
    """Predicted over measured energy of device-hours with the line of equality."""
    rows = plain(table)
    values = [row[name] for row in rows for name in ("energy_kwh", "predicted_kwh") if row[name] is not None]
    top = max(values, default=1.0)
    nodes = most_frequent([row["node_id"] for row in rows], MOST_SERIES + 1)
    # Many nodes in a handful of colours would only look like a difference.
    few = len(nodes) <= MOST_SERIES
    colour: Any = alt.value(COLOURS[0])
    if few:
        colour = alt.Color("node_id:N", title=None, scale=_palette(nodes), legend=_legend(4))
    scale, axis = alt.Scale(domain=[0, top], nice=True), alt.Axis(tickCount=6)
    line = (
        _chart("equality")
        .mark_line(strokeDash=[4, 4], strokeWidth=1, color="#8C8C8C")
        .encode(x=alt.X("at:Q", scale=scale), y=alt.Y("at:Q", scale=scale))
    )
    marks = (
        _chart()
        .mark_point(filled=True, size=22, opacity=0.5)
        .encode(
            x=alt.X("energy_kwh:Q", title="measured, kWh per hour", scale=scale, axis=axis),
            y=alt.Y("predicted_kwh:Q", title="predicted, kWh per hour", scale=scale, axis=axis),
            color=colour,
            tooltip=[
                alt.Tooltip("node_id:N", title="node"), alt.Tooltip("device_id:N", title="device"),
                _utc("hour_start", "hour, UTC"),
                alt.Tooltip("energy_kwh:Q", title="measured, kWh", format=",.4~r"),
                alt.Tooltip("predicted_kwh:Q", title="predicted, kWh", format=",.4~r"),
            ],
        )
    )  # fmt: skip
    both = alt.layer(line, marks).properties(width="container", height=300, description=description)
    return _finish(both, rows=rows, equality=[{"at": 0.0}, {"at": top}])
