"""Accounting as delivered to runs and holdings: nothing invented, nothing counted twice, the newest word holds."""

from __future__ import annotations

import csv
from datetime import date

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.attribution.runs import HostlistError, expand, job_nodes, job_runs, run_table
from lepton_etl.days import Days
from tests.unit.attribution import accounting

CASE = accounting.CASES / "accounting"
DAYS = Days(date(2025, 6, 2), date(2025, 6, 3))
NODES = accounting.inventory(CASE / "inventory.csv")
HEADER = "JobIDRaw|Cluster|Account|State|Submit|Start|End|NNodes|AllocCPUS|NodeList|Restarts\n"


def made(*deliveries: pa.Table, days: Days = DAYS) -> tuple[pa.Table, pa.Table]:
    runs = job_runs(pa.concat_tables(deliveries), NODES, accounting.SITE, days)
    return run_table(runs), job_nodes(runs, NODES)


def case_rows(name: str) -> list[dict[str, str]]:
    with (CASE / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_case() -> None:
    sacct = accounting.bronze((CASE / "sacct.txt").read_text(), "slurm", ingest_hour=2, file_id="a")
    scontrol = accounting.bronze((CASE / "scontrol.txt").read_text(), "scontrol", ingest_hour=3, file_id="b")
    for deliveries in ((sacct, scontrol), (scontrol, sacct)):
        runs, nodes = made(*deliveries)
        for table, name in ((runs, "job_run.csv"), (nodes, "job_node.csv")):
            expected = case_rows(name)
            assert accounting.said(table, list(expected[0])) == expected


def line(state: str, end: str) -> str:
    return f"{HEADER}7|alpha|phys|{state}|2025-06-03T00:00:00|2025-06-03T01:00:00|{end}|1|4|n01|0\n"


def test_a_later_delivery_of_the_end_wins_in_any_order() -> None:
    first = accounting.bronze(line("RUNNING", "Unknown"), ingest_hour=1, file_id="z")
    later = accounting.bronze(line("FAILED", "2025-06-03T02:00:00"), ingest_hour=2, file_id="a")
    assert [row["to_time"].hour for row in made(first)[1].to_pylist()] == [0]
    for order in ((first, later), (later, first), (later, first, later)):
        runs, nodes = made(*order)
        assert runs["outcome"].to_pylist() == ["failed"]
        assert [row["to_time"].hour for row in nodes.to_pylist()] == [2]


def test_of_two_words_on_the_end_the_newer_holds_then_the_file() -> None:
    ends = [
        accounting.bronze(line("COMPLETED", f"2025-06-03T0{hour}:00:00"), ingest_hour=1, file_id=name)
        for hour, name in ((2, "a"), (3, "b"), (4, "a"))
    ]
    assert made(*ends)[0]["end_time"].to_pylist()[0].hour == 3
    assert made(*reversed(ends))[0]["end_time"].to_pylist()[0].hour == 3


def test_runs_of_one_submission_without_a_count_are_numbered_by_their_start() -> None:
    text = "JobIDRaw|State|Submit|Start|End|AllocCPUS|NodeList\n" + "".join(
        f"7|{state}|2025-06-03T00:00:00|2025-06-03T0{hour}:00:00|2025-06-03T0{hour}:30:00|4|n01\n"
        for hour, state in ((3, "COMPLETED"), (1, "REQUEUED"), (2, "REQUEUED"))
    )
    runs, nodes = made(accounting.bronze(text))
    assert list(zip(runs["restart"].to_pylist(), runs["outcome"].to_pylist(), strict=True)) == [
        (0, "requeued"), (1, "requeued"), (2, "completed"),
    ]  # fmt: skip
    assert nodes.num_rows == 3


def test_no_job_gives_empty_tables() -> None:
    runs, nodes = made(accounting.bronze(HEADER))
    assert (runs.num_rows, nodes.num_rows) == (0, 0)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("n1", ["n1"]),
        ("node[01-03,07],gpu1", ["node01", "node02", "node03", "node07", "gpu1"]),
        ("n[8-11]", ["n8", "n9", "n10", "n11"]),
        ("r[1-2]n[1-2]-ib", ["r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"]),
        ("n[1-2],n[2-3]", ["n1", "n2", "n3"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("", []),
    ],
)
def test_node_lists_expand(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    "text", ["n[1-2", "n]1[", "n[[1]]", "n[3-1]", "n[a-b]", "n[1-]", "n[1-9999999]", "n[]"]
)
def test_damaged_node_lists_are_refused(text: str) -> None:
    with pytest.raises(HostlistError):
        expand(text)


@given(st.sets(st.integers(0, 9999), min_size=1, max_size=50), st.integers(1, 5))
def test_a_list_of_numbers_comes_back(numbers: set[int], width: int) -> None:
    written = [str(number).zfill(width) for number in sorted(numbers)]
    assert expand(f"n[{','.join(written)}]") == [f"n{text}" for text in written]


@given(st.text(alphabet="n[]-,0123456789a", max_size=30))
def test_any_list_is_read_or_refused(text: str) -> None:
    try:
        names = expand(text)
    except HostlistError:
        return
    assert len(names) == len(set(names))
