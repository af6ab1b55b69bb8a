"""A span of a log as the stream's rows: the night's names of nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from lepton_etl.config.sources import SOURCES
from lepton_etl.lake.landing import Landing
from lepton_etl.registers.node_names import NodeNames, Rule
from lepton_etl.streaming.device_now import MEANINGS
from lepton_etl.streaming.follow import Span
from lepton_etl.streaming.watch import Follow, read_span


@pytest.mark.parametrize(("rule", "node_id"), [("inventory", "cn1"), ("as_logged", "CN1.example.org.")])
def test_a_node_has_the_name_that_the_night_gives_it(tmp_path: Path, rule: Rule, node_id: str) -> None:
    file = tmp_path / "CN1.example.org..csv"
    file.write_text("timestamp, index, power.draw [W]\n2025/06/03 00:00:30.000, 0, 300.00\n")
    source = SOURCES["nvidia_smi"](
        name="gpu", path=f"{tmp_path}/*", node_id_from_path=r"(?P<node_id>[^/]+)\.csv"
    )
    follow = Follow(
        Landing(), "s1", {"gpu": source}, NodeNames(frozenset({"cn1"}), rule), MEANINGS, 60, 1.0, 0.0, 1
    )
    rows = read_span(follow, source, Span(str(file), 0, file.stat().st_size)).to_pylist()
    assert {(row["node_id"], row["quantity"], row["value_sum"]) for row in rows} == {
        (node_id, "gpu_power", 300.0)
    }
