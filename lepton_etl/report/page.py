"""ReportData -> one HTML page that needs no network.

The page holds its style, its data and the Vega libraries (about 0.9 MB, from vl-convert). A content security
policy inside the page forbids every load, so that a reader's browser enforces what the tests check.
Everything that comes from data is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from textwrap import shorten
from typing import Any, Final

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lepton_etl.conf_files import user_cache
from lepton_etl.report import figures
from lepton_etl.report import figures as accounts
from lepton_etl.report import figures as text
from lepton_etl.report.charts import SCATTERS, drawings
from lepton_etl.report.data import ReportData
from lepton_etl.report.figures import MOST_TENANTS, headlines
from lepton_etl.schema.fields import FIELDS

_EXPORTED: Final = "window.vegaEmbed = vegaEmbed;"
MOST_DAY_ROWS: Final = 200
MOST_DISCARDED: Final = 200
MOST_IGNORED: Final = 25
MOST_REJECTS: Final = 40
MOST_ANOMALIES: Final = 40
MOST_ADVICE: Final = 40
MOST_ERRORS: Final = 62  # Two rows a server: all of them together and the thirty worst.

# Which figures the cluster tables show, and so which definitions the page prints.
DEFINED: Final = (
    "node_count", "it_energy_kwh", "it_energy_lower_kwh", "coverage_ratio", "node_second_coverage_ratio",
    "gpu_energy_kwh", "idle_energy_kwh", "energy_basis", "facility_energy_kwh", "pue_ratio", "pue_basis",
    "pue_category", "emissions_location_kgco2e", "emissions_upstream_kgco2e", "emissions_missing_kwh",
    "carbon_intensity_gco2e_per_kwh", "emissions_basis", "cpu_utilisation_ratio", "gpu_utilisation_ratio",
    "peak_power_w", "inlet_temp_p99_c", "status",
)  # fmt: skip

_FILTERS: Final = {
    "number": text.number, "energy": text.energy, "power": text.power, "mass": text.mass,
    "intensity": text.intensity_text, "percent": text.percent, "temperature": text.temperature,
    "ratio": text.ratio, "size": text.size, "seconds": text.seconds, "stamp": text.stamp,
}  # fmt: skip


def render(data: ReportData) -> str:
    """The page. Pure: equal data give equal bytes."""
    days = sorted(data.cluster_day.to_pylist(), key=_place)
    full = figures.completed(days, data.run.days)
    clusters = sorted(figures.over_range(full), key=_place)
    several_days = data.run.days.count > 1
    charts, tenants = drawings(data), accounts.tenant_rows(data.tenants)
    context = {
        "run": data.run,
        "title": f"Energy report of {data.run.site_id}, {data.run.days}",
        "utc_days": text.utc_days(data.run.days),
        "local_span": text.local_span(data.run.days, data.run.timezone),
        "local_dates": text.local_dates(data.run.days, data.run.timezone),
        "headlines": headlines(full),
        "several_days": several_days,
        "clusters": clusters if several_days else [row | {"partial": {}} for row in days],
        "days": [row | {"partial": {}} for row in days[-MOST_DAY_ROWS:]] if several_days else [],
        "days_total": len(days),
        "accounts": accounts.account_rows(data.ledger),
        "balance": accounts.balance_row(data.ledger),
        "meters": accounts.meter_rows(data.meter_check),
        "tenants": tenants[:MOST_TENANTS],
        "tenants_total": len(tenants),
        "states": data.states.to_pylist(),
        "anomalies": data.anomalies.slice(0, MOST_ANOMALIES).to_pylist(),
        "anomalies_total": data.anomalies.num_rows,
        "advice": data.recommendations.slice(0, MOST_ADVICE).to_pylist(),
        "advice_total": data.recommendations.num_rows,
        "savings": data.savings.to_pylist(),
        "charts": charts,
        "scatters": [charts[name] for name in SCATTERS],
        "specs": {drawing.name: _script_json(drawing.spec) for drawing in charts.values() if drawing.spec},
        "bundle": _bundle(),
        "data": data,
        "files": data.files.to_pylist(),
        "discarded": data.discarded.slice(0, MOST_DISCARDED).to_pylist(),
        "rejects": data.rejects.slice(0, MOST_REJECTS).to_pylist(),
        "ignored": data.ignored.slice(0, MOST_IGNORED).to_pylist(),
        "stages": [_stage(row) for row in data.stages.to_pylist()],
        "errors": data.model.errors.slice(0, MOST_ERRORS).to_pylist() if data.model else [],
        "unknowns": figures.unknowns(days),
        "definitions": [(FIELDS[name], _unit(FIELDS[name].unit)) for name in DEFINED],
        "labels": _labels(),
        "dash": text.DASH,
    }
    return _environment().get_template("page.html.j2").render(context)


def _place(row: Mapping[str, Any]) -> tuple[str, bool, str]:
    """Where a cluster stands in a table: by day, pseudo-clusters (`_shared`, `_unattributed`) last."""
    return str(row["date"]), row["cluster_id"].startswith("_"), row["cluster_id"]


def _stage(row: Mapping[str, Any]) -> dict[str, Any]:
    rows, seconds = row["rows_in"], row["duration_s"]
    message = (row["message"] or "").splitlines()
    # The train stage tells its whole table of errors; the page has a section for that.
    shown = shorten(message[0], 240, placeholder=" …") if message else ""
    return {**row, "rows_per_s": round(rows / seconds) if rows and seconds else None, "message": shown}


def _unit(unit: str | None) -> str:
    return "" if unit in (None, "dimensionless") else str(unit).replace("_", " ")


def _labels() -> Mapping[str, str]:
    """Hints of table headings: the field dictionary's descriptions."""
    return {name: field.description for name, field in FIELDS.items()}


def _script_json(value: object) -> Markup:
    """JSON that may stand inside <script>: no character that could end the element or open a comment."""
    raw = json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    for character in "<>&":
        raw = raw.replace(character, f"\\u{ord(character):04x}")
    return Markup(raw)  # noqa: S704  (escaped above)


@cache
def _bundle() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script: made in some seconds, kept where the cache can be written."""
    script = ""
    with suppress(OSError, RuntimeError):  # no home, or none that may be written or read
        kept = user_cache() / f"vega-{version('vl-convert-python')}.js"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile("w", encoding="utf-8", dir=kept.parent, delete=False) as made:
                made.write(vl_convert.javascript_bundle(_EXPORTED))
            Path(made.name).replace(kept)
        script = kept.read_text(encoding="utf-8")
    script = script or vl_convert.javascript_bundle(_EXPORTED)
    if "</script" in script.lower() or "<!--" in script:
        raise ValueError("the Vega bundle of this vl-convert cannot stand inside a script element")
    return Markup(script)  # noqa: S704  (the library's own code)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lepton_etl.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(_FILTERS)
    return environment
