"""The train stage's records and message, as the report shows them."""

from __future__ import annotations

import pytest

from lepton_etl.models.metrics import ALL_NODES, ErrorRow, Errors, as_lines, as_records
from lepton_etl.report.model import error_rows, notes_of, rival_rows


def record(model: str, node: str, hours: str, wape: float | None) -> ErrorRow:
    return ErrorRow(model, node, hours, Errors(10, 0.1, wape, 0.2, -0.01, 0.05))


RECORDS = [
    record(model, node, hours, wape)
    for model, shift in (("model", 0.0), ("class_mean", 0.5))
    for node, wape in ((ALL_NODES, 0.1 + shift), ("good", 0.05 + shift), ("bad", 0.4 + shift))
    for hours in ("all", "busy")
]


def test_all_servers_come_first_then_the_worst_beside_the_baseline() -> None:
    rows = error_rows(as_records(RECORDS)).to_pylist()
    assert [(r["server"], r["hours_kind"]) for r in rows] == [
        (server, hours) for server in ("all servers", "bad", "good") for hours in ("all", "busy")
    ]
    assert rows[2]["wape_ratio"] == 0.4
    assert rows[2]["baseline_wape_ratio"] == 0.9


def test_unknown_errors_stay_unknown() -> None:
    (row,) = error_rows(as_records([record("model", "idle", "all", None)])).to_pylist()
    assert row["wape_ratio"] is None
    assert row["baseline_wape_ratio"] is None


@pytest.mark.parametrize("separator", ["; ", "\n"])
def test_the_error_table_is_cut_from_the_message(separator: str) -> None:
    said = "node-energy version 2 refused: CV(RMSE) 31.0% above 30%; NMBE +11.0% outside 10%"
    assert notes_of(separator.join([said, *as_lines(RECORDS)])) == (said,)
    assert notes_of("") == ()


def test_the_best_rival_is_the_baseline_and_all_rivals_are_listed() -> None:
    errors = {
        "model": (0.10, 0.05),
        "linear": (0.11, 0.06),
        "class_mean": (0.3, 0.4),
        "rated_x_load": (0.5, 0.6),
    }
    records = as_records(
        [
            ErrorRow(model, node, "all", Errors(10, 0.1, wape, cv, 0.0, 0.05))
            for model, (wape, cv) in errors.items()
            for node in (ALL_NODES, "n1")
            if node == ALL_NODES or model in ("model", "linear", "class_mean")
        ]
    )
    assert {row["baseline_wape_ratio"] for row in error_rows(records).to_pylist()} == {0.11}
    assert [(row["rival"], row["cv_ratio"]) for row in rival_rows(records, "piecewise_linear").to_pylist()] == [
        ("this model: piecewise-linear model", 0.05), ("linear model", 0.06), ("mean of the hardware class", 0.4),
        ("rated power x load", 0.6),
    ]  # fmt: skip
