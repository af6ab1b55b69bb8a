"""ReportData -> one HTML page that needs no network.

The page holds its style, its data and the Vega libraries (about 0.9 MB, from vl-convert). A content security
policy inside the page forbids every load, so that a reader's browser enforces what the tests check.
Everything that comes from data is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from textwrap import shorten
from typing import Any, Final

import pyarrow as pa
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lepton_etl.conf_files import user_cache
from lepton_etl.report import figures
from lepton_etl.report import figures as accounts
from lepton_etl.report import figures as text
from lepton_etl.report.charts import SCATTERS, coverage_figure, drawings
from lepton_etl.report.data import ReportData
from lepton_etl.report.figures import MOST_TENANTS, headlines
from lepton_etl.report.lookup import RATIO, ROWS, SUM, Origin, figure, of_row, within
from lepton_etl.report.superseded import written
from lepton_etl.report.unknown import unknowns
from lepton_etl.schema.fields import FIELDS

_EXPORTED: Final = "window.vegaEmbed = vegaEmbed;"
MOST_DAY_ROWS: Final = 200
MOST_DISCARDED: Final = 200
MOST_IGNORED: Final = 25
MOST_REJECTS: Final = 40
MOST_ANOMALIES: Final = 40
MOST_SHIFTS: Final = 20
MOST_ADVICE: Final = 40
MOST_BURDENS: Final = 40
MOST_ERRORS: Final = 62  # Two rows a server: all of them together and the thirty worst.

# Which figures the cluster tables show, and so which definitions the page prints.
DEFINED: Final = (
    "node_count", "it_energy_kwh", "it_energy_lower_kwh", "coverage_ratio", "node_second_coverage_ratio",
    "gpu_energy_kwh", "idle_energy_kwh", "energy_basis", "facility_energy_kwh", "pue_ratio", "pue_basis",
    "pue_category", "emissions_location_kgco2e", "emissions_upstream_kgco2e", "emissions_missing_kwh",
    "carbon_intensity_gco2e_per_kwh", "emissions_basis", "cpu_utilisation_ratio", "gpu_utilisation_ratio",
    "peak_power_w", "inlet_temp_p99_c", "status",
)  # fmt: skip

_FILTERS: Final[Mapping[str, Callable[[Any], str]]] = {
    "number": text.number, "energy": text.energy, "power": text.power, "mass": text.mass,
    "intensity": text.intensity_text, "percent": text.percent, "temperature": text.temperature,
    "ratio": text.ratio, "size": text.size, "seconds": text.seconds, "stamp": text.stamp, "text": text.plain,
    "words": text.words, "whole": text.whole, "sigma": text.sigma, "least": text.least_error, "short": text.short,
    "several": text.several, "line": text.line, "watt_hours": text.watt_hours,
}  # fmt: skip
_FILE_COUNTS: Final = ("size_bytes", "records", "readings", "jobs", "rejects", "duplicates", "ignored")
_FIRST: Final = ("path", "source_position", "raw_text")
_MODEL_MADE: Final = {
    "server": ("node_id", "name"), "hours_kind": ("hours", "name"), "hours": ("rows", "value"),
    "cv_ratio": ("cv_rmse_ratio", "value"), "baseline_wape_ratio": ("wape_ratio", "of the best rival"),
}  # fmt: skip


def render(data: ReportData) -> str:
    """The page. Pure: equal data give equal bytes."""
    days = sorted(data.cluster_day.to_pylist(), key=_place)
    full = figures.completed(days, data.run.days)
    several_days = data.run.days.count > 1
    clusters = sorted(figures.over_range(full, data.run.days), key=_place)
    shown_days = figures.cluster_days(days[-MOST_DAY_ROWS:] if several_days else days)
    charts, tenants = drawings(data), accounts.tenant_rows(data.tenants)
    span, last = within(data.run.days), str(data.run.days.end)
    stages = _placed(
        data.stages.to_pylist(), "ops/stage_run", ("run_id", "stage", "date_from", "date_until"),
        {"rows_per_s": ("rows_in/duration_s", RATIO), "message": ("message", "begins")},
    )  # fmt: skip
    context = {
        "run": data.run,
        "title": f"Energy report of {data.run.site_id}, {data.run.days}",
        "utc_days": text.utc_days(data.run.days),
        "local_span": text.local_span(data.run.days, data.run.timezone),
        "local_dates": text.local_dates(data.run.days, data.run.timezone),
        "headlines": headlines(
            data.site_hour.to_pylist(), data.kpi.to_pylist(), full, data.run.days, _open_nodes(data)
        ),
        "several_days": several_days,
        "clusters": clusters if several_days else shown_days,
        "days": shown_days if several_days else [],
        "days_total": len(days),
        "accounts": _placed(
            accounts.account_rows(data.ledger), "gold/energy_ledger", ("side", "ledger_account"),
            accounts.ACCOUNTS_MADE, date=span,
        ),
        "balance": _balance(data, span),
        "meters": _placed(
            accounts.meter_rows(data.meter_check), "gold/meter_check", ("site_id", "meter_id"), accounts.METERS_MADE,
            date=span, check_period="day",
        ),
        "tenants": _placed(
            tenants[:MOST_TENANTS], "gold/tenant_day", ("cluster_id", "tenant_id"), accounts.TENANTS_MADE, date=span
        ),
        "tenants_total": len(tenants),
        "states": _placed(
            data.states.to_pylist(), "gold/state", ("performance_state",),
            {"intervals": ("performance_state", ROWS), "devices": ("node_id+device_id", "distinct"),
             "nodes": ("node_id", "most frequent")},
            date=span,
        ),
        "anomalies": _placed(_first(data.anomalies, MOST_ANOMALIES), "gold/anomaly", ("anomaly_id",), date=span),
        "anomalies_total": data.anomalies.num_rows,
        "shifts": _placed(
            _first(data.shifts, MOST_SHIFTS), "gold/model_shift", ("node_id", "device_id", "model_version"), date=last
        ),
        "shifts_total": data.shifts.num_rows,
        "advice": _placed(
            _first(data.recommendations, MOST_ADVICE), "gold/recommendation", ("recommendation_id",), date=last
        ),
        "advice_total": data.recommendations.num_rows,
        "savings": _placed(data.savings.to_pylist(), "gold/saving", ("recommendation_id",), date=last),
        "burden_kinds": _placed(
            accounts.burden_kinds(data.burdens), "gold/tenant_burden", ("site_id", "burden_kind"),
            {"tenants": ("tenant_id", ROWS)}, date=last,
        ),
        "burdens": _placed(
            accounts.burden_rows(data.burdens)[:MOST_BURDENS], "gold/tenant_burden",
            ("site_id", "burden_kind", "tenant_id"), date=last,
        ),
        "burdens_total": data.burdens.num_rows,
        "charts": charts,
        "scatters": [charts[name] for name in SCATTERS],
        "specs": {drawing.name: _script_json(drawing.spec) for drawing in charts.values() if drawing.spec},
        "bundle": _bundle(),
        "data": data,
        "files": _placed(
            data.files.to_pylist(), "bronze/file", ("source_name", "state"),
            {"files": ("path", ROWS), **{name: (name, SUM) for name in _FILE_COUNTS}}, **{"files of": span},
        ),
        "discarded": _placed(
            _first(data.discarded, MOST_DISCARDED), "bronze/file", ("path", "state"), {}, **{"files of": span}
        ),
        "rejects": _placed(
            _first(data.rejects, MOST_REJECTS), "bronze/reject", ("source_name", "reason"),
            {"records": ("reason", ROWS), **{name: (name, "first") for name in _FIRST}},
            **{"files of": span},
        ),
        "ignored": _placed(
            _first(data.ignored, MOST_IGNORED), "bronze/file ignored_detail", ("source_name", "sensor", "reason"),
            {"records": ("records", SUM)}, **{"files of": span},
        ),
        "stages": [_stage(row) for row in stages],
        "gate": next((row["origin"] for row in stages if row["stage"] == "gate"), None),
        "train": next((row["origin"] for row in stages if row["stage"] == "train"), None),
        "errors": _errors(data),
        "groups": _groups(data),
        "rivals": _rivals(data),
        "unknowns": [
            {**vars(item), "missing": item.missing, "origin": item.origin} for item in unknowns(days, data.around)
        ],
        "definitions": [(FIELDS[name], _unit(FIELDS[name].unit)) for name in DEFINED],
        "labels": _labels(),
        "dash": text.DASH,
        "made_of": written(data.made_of),
        "span": span,
    }  # fmt: skip
    return _environment().get_template("page.html.j2").render(context)


def _first(table: pa.Table, most: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.slice(0, most).to_pylist()
    return rows


def _placed(
    rows: list[dict[str, Any]],
    table: str,
    key: tuple[str, ...],
    made: Mapping[str, tuple[str, str]] | None = None,
    **where: str,
) -> list[dict[str, Any]]:
    """The rows, each with its place in the table: its key beside what `where` says of all of them."""
    return [
        {**row, "origin": Origin(table, {**where, **{name: row[name] for name in key}}, made or {})}
        for row in rows
    ]


def _balance(data: ReportData, span: str) -> dict[str, Any] | None:
    row = accounts.balance_row(data.ledger)
    if row is None:
        return None
    (placed,) = _placed(
        [row], "gold/energy_ledger", (), accounts.BALANCE_MADE, date=span, side=accounts.BALANCE
    )
    return placed


def _errors(data: ReportData) -> list[dict[str, Any]]:
    if data.model is None:
        return []
    rows = _first(data.model.errors, MOST_ERRORS)
    where = {"version": data.model.version or "", "model": "model"}
    return _placed(rows, "mlflow errors.json", ("server", "hours_kind"), _MODEL_MADE, **where)


def _groups(data: ReportData) -> list[dict[str, Any]]:
    if data.model is None:
        return []
    rows = data.model.groups.to_pylist()
    return _placed(rows, "mlflow parity.json", ("scope", "group"), version=data.model.version or "")


def _rivals(data: ReportData) -> list[dict[str, Any]]:
    if data.model is None:
        return []
    where = {"version": data.model.version or "", "node_id": "(all)", "hours": "all"}
    return _placed(data.model.rivals.to_pylist(), "mlflow errors.json", ("model",), _MODEL_MADE, **where)


def _open_nodes(data: ReportData) -> Markup:
    """What of the coverage is open until the next night, for its tile."""
    if not data.coverage.nodes_open:
        return Markup("")
    opened = coverage_figure(data, text.number(data.coverage.nodes_open), "nodes_open")
    return Markup("; {} wait for the day beside, see data coverage").format(opened)


def _place(row: Mapping[str, Any]) -> tuple[str, bool, str]:
    """Where a cluster stands in a table: by day, pseudo-clusters (`_shared`, `_unattributed`) last."""
    return str(row["date"]), row["cluster_id"].startswith("_"), row["cluster_id"]


def _stage(row: Mapping[str, Any]) -> dict[str, Any]:
    rows, seconds = row["rows_in"], row["duration_s"]
    message = (row["message"] or "").splitlines()
    # The train stage tells its whole table of errors; the page has a section for that.
    shown = shorten(message[0], 240, placeholder=" …") if message else ""
    return {**row, "rows_per_s": rows / seconds if rows is not None and seconds else None, "message": shown}


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


def _figure(row: Mapping[str, Any], name: str, written: str = "text") -> Markup:
    """A figure of a row as the filter of that name writes it, with its place in the lake."""
    return of_row(row, name, _FILTERS[written](row[name]))


def _count(value: int, table: str, column: str = "", how: str = ROWS, **where: str) -> Markup:
    """A number of rows or files in running text, with its place in the lake."""
    where = {name.replace("_of", " of"): said for name, said in where.items()}
    return figure(text.number(value), value, column, how, Origin(table, where))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("lepton_etl.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(_FILTERS)
    environment.globals.update(fig=_figure, count=_count)
    return environment
