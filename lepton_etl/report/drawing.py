"""Which charts the page shows, with what each says: title, unit, how to read it, or why there is none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.fields import GRAMS_PER_KILOGRAM
from lepton_etl.report import charts
from lepton_etl.report.data import ReportData, Sample

SHARED: Final = "_shared"
SITE: Final = "site"

# (cluster, start of the bucket) -> value
Buckets = Mapping[tuple[str, datetime], float | None]


@dataclass(frozen=True)
class Drawing:
    """One figure: its specification, or None with `note` saying why nothing can be drawn."""

    name: str
    title: str
    note: str
    spec: charts.Spec | None


def drawings(data: ReportData) -> dict[str, Drawing]:
    """Every chart of the page by name, drawn or explained."""
    found = [*over_time(data), *_scatters(data.points), _coverage(data), _predictions(data.predictions)]
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
            f"A gap in a line is unknown energy, not zero.{bands}{mean}{_undrawn(rows, column)}",
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
            {"value": site_intensity(rows, hours)}, [SITE], "gCO₂e/kWh", span,
            "Emissions over the facility energy that has an intensity.",
            "No hour has known emissions, and so none has an intensity.",
        ),
    ]  # fmt: skip


def _lines(
    name: str, title: str, values: Mapping[str, Buckets], series: Sequence[str], unit: str, span: str,
    note: str, unknown: str,
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
    plain = charts.plain(pa.Table.from_pylist(rows))
    spec = charts.series_over_time(
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
    """Emissions of all clusters over the facility energy that has an intensity, gCO2e/kWh by bucket."""
    known = [
        {
            "cluster_id": SITE,
            "hour_start": row["hour_start"],
            "emitted": row["emissions_location_kgco2e"],
            "covered": (row["facility_energy_kwh"] or 0.0) - (row["emissions_missing_kwh"] or 0.0),
        }
        for row in rows
        if row["emissions_location_kgco2e"] is not None
    ]
    # Both means are over the same rows, so their ratio is the ratio of the sums.
    emitted, covered = (bucketed(known, column, hours) for column in ("emitted", "covered"))
    return {
        key: kilograms * GRAMS_PER_KILOGRAM / energy
        if kilograms is not None and (energy := covered[key])
        else None
        for key, kilograms in emitted.items()
    }


def _knows(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    return any(row[column] is not None for row in rows)


def _undrawn(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    """Which clusters have no line, and why."""
    clusters = {row["cluster_id"] for row in rows}
    unknown = clusters - {row["cluster_id"] for row in rows if row[column] is not None}
    more = len(clusters) - charts.MOST_SERIES
    said = f" Unknown in every hour: {', '.join(sorted(unknown))}." if unknown else ""
    return said + (f" The {more} clusters with the least energy are left out." if more > 0 else "")


def _width(hours: int) -> str:
    return {1: "an hour", 24: "a day", 168: "a week", 720: "30 days"}.get(hours, f"{hours} hours")


def _largest(values: Buckets, clusters: Sequence[str]) -> list[str]:
    """The clusters with most energy first, as many as there are colours; `_shared` stands last."""
    totals = dict.fromkeys(sorted(set(clusters)), 0.0)
    for (cluster, _), value in values.items():
        totals[cluster] += value or 0.0
    kept = sorted(totals, key=lambda name: (-totals[name], name))[: charts.MOST_SERIES]
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
        spec = charts.scatter(
            rows, column, x_title=x_title, x_format=x_format, y_title=f"mean power of a {subject}, W",
            description=f"Scatter of mean power against {x_title}, one mark an hour of a {subject}, "
            f"{rows.num_rows} marks, coloured by hardware class",
        )  # fmt: skip
        found.append(Drawing(name, title, f"{rows.num_rows:,} {subject}-hours.", spec))
    return found


def _inner(words: str) -> str:
    """Words inside a sentence: "Inlet" gets small, "GPU" stays."""
    return words if words[1].isupper() else words[0].lower() + words[1:]


def _coverage(data: ReportData) -> Drawing:
    title = f"Share of seconds observed, a row a node, a column {_width(data.coverage.bucket_hours)}"
    cells = data.coverage.cells
    if cells.num_rows == 0:
        return Drawing("coverage", title, "No node of the inventory was expected in these days.", None)
    shown = len(pc.unique(cells["node_id"]))
    total = data.coverage.nodes_total
    which = f"All {total:,} nodes" if shown == total else f"The {shown:,} least covered of {total:,} nodes"
    rule = f"{which}, least covered first."
    rule += f" {data.coverage.nodes_complete:,} of {total:,} nodes are complete."
    spec = charts.coverage_map(cells, data.coverage.bucket_hours, f"Heat map: {title}. {rule}")
    return Drawing("coverage", title, rule, spec)


def _predictions(predictions: Sample) -> Drawing:
    title = "Predicted against measured energy, device-hours"
    rows = predictions.rows
    rows = rows.filter(pc.and_(pc.is_valid(rows["energy_kwh"]), pc.is_valid(rows["predicted_kwh"])))
    if rows.num_rows == 0:
        return Drawing("predictions", title, "No device-hour of these days has been scored by a model.", None)
    spec = charts.predicted_against_measured(
        rows, f"Scatter of predicted against measured energy of {rows.num_rows} device-hours"
    )
    sampled = f" of {predictions.total:,}, with the lowest hash of their key"
    return Drawing(
        "predictions", title,
        f"{rows.num_rows:,} device-hours{sampled if rows.num_rows < predictions.total else ''}. "
        "On the dashed line the prediction equals the measurement.",
        spec,
    )  # fmt: skip
