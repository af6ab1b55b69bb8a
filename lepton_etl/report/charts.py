"""Draw the charts of the page as Vega-Lite specifications, or say why there is none.

Each has a title, a unit and a line on how to read it. Small Arrow tables in, a specification with its data
inside out; equal tables give equal specifications. Nothing names a URL: `$schema` is left out (the page tells
the embedder that it is Vega-Lite). Text takes its colour from the page.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import altair as alt
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from lepton_etl.report.data import ReportData, Sample
from lepton_etl.report.lookup import ROWS, Origin, figure, within
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM

Spec = dict[str, Any]

# Okabe and Ito's colours, told apart by colour-blind readers, with a lighter blue and without the
# yellow and black that one of the two backgrounds swallows. Source: https://jfly.uni-koeln.de/color/
COLOURS: Final = ("#1A7FC1", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C")
SHAPES: Final = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke")
MOST_SERIES: Final = len(COLOURS)
OTHERS: Final = "others"

COVERAGE_CLASSES: Final = ("none", "below 50 %", "50 to 90 %", "90 to 100 %", "complete")
_COVERAGE_LIMITS: Final = tuple(zip((0.5, 0.9, 1.0), COVERAGE_CLASSES[1:4], strict=True))
_COVERAGE_COLOURS: Final = ("#8C2D04", "#D55E00", "#F2B36B", "#9CC3E0", "#2B6CA3")


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
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
    rows = plain_rows(drawn.select(["node_id", "device_id", "hardware_class", "hour_start", "power_w", x]))
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
    rows = plain_rows(cells.rename_columns(["node_id", "time", "coverage_ratio"]))
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
    rows = plain_rows(table)
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


SHARED: Final = "_shared"
SITE: Final = "site"
_INTENSITY: Final = ("emissions_location_kgco2e", "grid_import_kwh")

# (cluster, start of the bucket) -> value
Buckets = Mapping[tuple[str, datetime], float | None]


@dataclass(frozen=True)
class Drawing:
    """One chart: its specification, or None with `note` saying why nothing can be drawn."""

    name: str
    title: str
    note: str | Markup
    spec: Spec | None


def drawings(data: ReportData) -> dict[str, Drawing]:
    """Every chart of the page by name, drawn or explained."""
    found = [*over_time(data), *_scatters(data.points), _coverage(data), _predictions(data)]
    return {drawing.name: drawing for drawing in found}


def over_time(data: ReportData) -> list[Drawing]:
    """Energy and emissions by cluster, and the site's carbon intensity."""
    rows, hours = data.cluster_hour.to_pylist(), data.bucket_hours
    span = f"{data.run.days.start} to {data.run.days.end}, UTC"
    # A site of GPU boards only has no IT energy; what is measured there is drawn instead, under its own name.
    boards = not _knows(rows, "it_energy_kwh") and _knows(rows, "gpu_energy_kwh")
    column, name = ("gpu_energy_kwh", "GPU board energy") if boards else ("it_energy_kwh", "IT energy")
    ends = {} if boards else {"lower": "it_energy_lower_kwh", "upper": "it_energy_upper_kwh"}
    energy = {end: bucketed(rows, source, hours) for end, source in {"value": column, **ends}.items()}
    emissions = {"value": bucketed(rows, "emissions_location_kgco2e", hours)}
    clusters = _largest(energy["value"], [row["cluster_id"] for row in rows])
    mean = "" if hours == 1 else f" Each point is the mean over the known hours of {_width(hours)}."
    bands = (
        ""
        if boards or not _knows(rows, "it_energy_lower_kwh")
        else " Bands are the 90 % interval by sensor error."
    )
    return [
        _lines(
            "energy", f"{name} by cluster, kWh per hour", energy, clusters, "kWh per hour", span,
            Markup("A gap in a line is unknown energy, not zero.{}{}{}").format(bands, mean, _undrawn(data, column)),
            "No hour has a known energy: the basis in the tables above says why.",
        ),
        _lines(
            "carbon", "Location-based emissions by cluster, kgCO₂e per hour", emissions, clusters,
            "kgCO₂e per hour", span,
            f"Facility energy of each hour times the grid's direct average intensity of that hour.{mean}",
            "No hour has known emissions: they need facility energy and a grid intensity of the hour.",
        ),
        _lines(
            "intensity", "Carbon intensity of the site's energy, gCO₂e/kWh",
            {"value": site_intensity(data.site_hour.to_pylist(), hours)}, [SITE], "gCO₂e/kWh", span,
            "Emissions over the site's grid energy that has an intensity.",
            "No hour has known emissions, and so none has an intensity.",
        ),
    ]  # fmt: skip


def _lines(
    name: str, title: str, values: Mapping[str, Buckets], series: Sequence[str], unit: str, span: str,
    note: str | Markup, unknown: str,
) -> Drawing:  # fmt: skip
    times = sorted({time for _, time in values["value"]})
    # A cluster without a row at a time has a gap there too, not a line across.
    rows = [
        {"series": key[0], "time": key[1]} | {column: found.get(key) for column, found in values.items()}
        for key in itertools.product(sorted(series), times)
    ]
    drawn = {row["series"] for row in rows if row["value"] is not None}
    if not drawn:
        return Drawing(name, title, unknown, None)
    plain = plain_rows(pa.Table.from_pylist(rows))
    spec = series_over_time(
        plain, [s for s in series if s in drawn], unit=unit, description=f"Line chart. {title}. {span}."
    )
    return Drawing(name, title, note, spec)


def bucketed(rows: Sequence[Mapping[str, Any]], column: str, hours: int) -> Buckets:
    """Mean of the known hours of `column` by cluster and bucket of `hours` (from the epoch), else None."""
    known: dict[tuple[str, datetime], list[float]] = {}
    for row in rows:
        seconds = int(row["hour_start"].timestamp())
        start = datetime.fromtimestamp(seconds - seconds % (hours * 3600), UTC)
        values = known.setdefault((row["cluster_id"], start), [])
        if row[column] is not None:
            values.append(row[column])
    return {key: math.fsum(values) / len(values) if values else None for key, values in known.items()}


def site_intensity(rows: Sequence[Mapping[str, Any]], hours: int) -> Buckets:
    """gold/site_hour -> emissions over the grid energy that has an intensity, gCO2e/kWh by bucket."""
    known = [
        {"cluster_id": SITE, **{name: row[name] for name in ("hour_start", *_INTENSITY)}}
        for row in rows
        if all(row[name] is not None for name in _INTENSITY)
    ]
    # Both means are over the same rows, so their ratio is the ratio of the sums.
    emitted, covered = (bucketed(known, column, hours) for column in _INTENSITY)
    return {
        key: kilograms * GRAMS_PER_KILOGRAM / energy
        if kilograms is not None and (energy := covered[key])
        else None
        for key, kilograms in emitted.items()
    }


def _knows(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    return any(row[column] is not None for row in rows)


def _undrawn(data: ReportData, column: str) -> Markup:
    """Which clusters have no line, and why."""
    rows = data.cluster_hour.to_pylist()
    clusters = {row["cluster_id"] for row in rows}
    unknown = ", ".join(sorted(clusters - {row["cluster_id"] for row in rows if row[column] is not None}))
    origin = Origin("gold/cluster_hour", {"date": within(data.run.days)})
    said = Markup("")
    if unknown:
        said += Markup(" Unknown in every hour: {}.").format(
            figure(unknown, unknown, f"cluster_id of {column}", "unknown in every row", origin)
        )
    if len(clusters) > MOST_SERIES:
        said += Markup(" Clusters with less energy are left out.")
    return said


def _width(hours: int) -> str:
    return {1: "an hour", 24: "a day", 168: "a week", 720: "30 days"}.get(hours, f"{hours} hours")


def _largest(values: Buckets, clusters: Sequence[str]) -> list[str]:
    """The clusters with most energy first, as many as there are colours; `_shared` stands last."""
    totals = dict.fromkeys(sorted(set(clusters)), 0.0)
    for (cluster, _), value in values.items():
        totals[cluster] += value or 0.0
    kept = sorted(totals, key=lambda name: (-totals[name], name))[:MOST_SERIES]
    return sorted(kept, key=lambda name: (name == SHARED, -totals[name], name))


_CPU, _GPU, _INLET, _DIE = "CPU utilisation", "GPU utilisation", "Inlet temperature", "GPU temperature"
# (chart, subject, column of the kind, kind, column, axis title, axis format)
_SCATTERS: Final = (
    ("node-cpu", "node", "load_kind", _CPU, "load_ratio", "CPU utilisation", ".0%"),
    ("node-gpu", "node", "load_kind", _GPU, "load_ratio", "GPU utilisation of the node", ".0%"),
    ("node-inlet", "node", "temperature_kind", _INLET, "temperature_c", "inlet temperature, °C", ".1f"),
    ("gpu-load", "GPU", "load_kind", _GPU, "load_ratio", "GPU utilisation", ".0%"),
    ("gpu-temperature", "GPU", "temperature_kind", _DIE, "temperature_c", "GPU temperature, °C", ".1f"),
)  # fmt: skip
SCATTERS: Final = tuple(row[0] for row in _SCATTERS)


def _scatters(points: Sample) -> list[Drawing]:
    table, found = points.rows, []
    for name, subject, kind_column, kind, column, x_title, x_format in _SCATTERS:
        rows = table.filter(pc.and_(pc.equal(table["subject"], subject), pc.equal(table[kind_column], kind)))
        rows = rows.filter(pc.and_(pc.is_valid(rows[column]), pc.is_valid(rows["power_w"])))
        title = f"Power of a {subject} against {x_title.split(',')[0]}"
        if rows.num_rows == 0:
            found.append(Drawing(name, title, f"No {subject}-hour has both power and {_inner(kind)}.", None))
            continue
        spec = scatter(
            rows, column, x_title=x_title, x_format=x_format, y_title=f"mean power of a {subject}, W",
            description=f"Scatter of mean power against {x_title}, one mark an hour of a {subject}, "
            f"{rows.num_rows} marks, coloured by hardware class",
        )  # fmt: skip
        found.append(
            Drawing(name, title, Markup("{} {}-hours.").format(_marks(name, rows.num_rows), subject), spec)
        )
    return found


def _inner(words: str) -> str:
    """Words inside a sentence: "Inlet" gets small, "GPU" stays."""
    return words if words[1].isupper() else words[0].lower() + words[1:]


def _marks(chart: str, count: int) -> Markup:
    """How many marks a chart of the page has."""
    return figure(f"{count:,}", count, "", ROWS, Origin(f"chart {chart}"))


def coverage_figure(data: ReportData, text: str, name: str) -> Markup:
    """A figure of the coverage of nodes, such as nodes_open, with its place in the lake."""
    origin = Origin("gold/node_hour", {"date": within(data.run.days)})
    return figure(text, getattr(data.coverage, name), "observed_s/expected_s", name.replace("_", " "), origin)


def _coverage(data: ReportData) -> Drawing:
    covered = data.coverage
    title = f"Share of seconds observed, a row a node, a column {_width(covered.bucket_hours)}"
    if covered.cells.num_rows == 0:
        return Drawing("coverage", title, "No node of the inventory was expected in these days.", None)
    shown = len(pc.unique(covered.cells["node_id"]))

    def count(name: str) -> Markup:
        return coverage_figure(data, f"{getattr(covered, name):,}", name)

    which = Markup("All {} nodes").format(count("nodes_total"))
    if shown < covered.nodes_total:
        drawn = figure(f"{shown:,}", shown, "node_id", "distinct", Origin("chart coverage"))
        which = Markup("The {} least covered of {} nodes").format(drawn, count("nodes_total"))
    note = which + Markup(", least covered first. {} of {} nodes are complete.").format(
        count("nodes_complete"), count("nodes_total")
    )
    if covered.nodes_open:
        note += Markup(
            " {} lack nothing but up to {} across the midnight to a day that was not delivered yet: "
            "a known gap, not a loss, which that day's night closes."
        ).format(count("nodes_open"), coverage_figure(data, f"{covered.open_s:.0f}\u202fs", "open_s"))
    spec = coverage_map(covered.cells, covered.bucket_hours, f"Heat map: {title}. {note.striptags()}")
    return Drawing("coverage", title, note, spec)


def _predictions(data: ReportData) -> Drawing:
    title = "Predicted against measured energy, device-hours"
    predictions, rows = data.predictions, data.predictions.rows
    rows = rows.filter(pc.and_(pc.is_valid(rows["energy_kwh"]), pc.is_valid(rows["predicted_kwh"])))
    if rows.num_rows == 0:
        return Drawing("predictions", title, "No device-hour of these days has been scored by a model.", None)
    spec = predicted_against_measured(
        rows, f"Scatter of predicted against measured energy of {rows.num_rows} device-hours"
    )
    sampled = Markup("")
    if rows.num_rows < predictions.total:
        origin = Origin("gold/prediction", {"date": within(data.run.days)})
        total = figure(f"{predictions.total:,}", predictions.total, "predicted_kwh", "rows scored", origin)
        sampled = Markup(" of {}, with the lowest hash of their key").format(total)
    note = Markup("{} device-hours{}. On the dashed line the prediction equals the measurement.")
    return Drawing("predictions", title, note.format(_marks("predictions", rows.num_rows), sampled), spec)
