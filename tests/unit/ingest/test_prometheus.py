"""What cases in files cannot show of the Prometheus decoder: bounded pieces, and rules that look at labels."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lepton_etl.ingest import documents as objects
from lepton_etl.ingest import prometheus as query_json
from lepton_etl.ingest.decoded import Origin
from lepton_etl.ingest.prometheus import Prometheus, read_labels, write_labels
from lepton_etl.ingest.sensors import RuleTable
from tests.decoding import decode

ORIGIN = Origin("site", "source", "input.txt", "n1", "UTC")
SPEC = Prometheus()


def answer(points: int) -> Iterator[bytes]:
    yield b'{"status":"success","data":{"resultType":"matrix","result":[{"metric":'
    yield b'{"__name__":"DCGM_FI_DEV_GPU_TEMP","gpu":"0"},"values":[[1748908800,"34"]'
    yield from (b',[%d,"35"]' % (1748908800 + second) for second in range(1, points))
    yield b"]}]}}"


def test_a_long_series_comes_in_bounded_pieces() -> None:
    points = 2 * query_json.BATCH_SAMPLES + 1
    parts = [part.readings.num_rows for part in SPEC.read(answer(points), ORIGIN)]
    assert parts == [query_json.BATCH_SAMPLES, query_json.BATCH_SAMPLES, 1]


def test_a_value_without_an_end_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "MAX_DOCUMENT_BYTES", 1 << 20)
    read = []

    def long() -> Iterator[bytes]:
        yield b'{"status":"'
        for number in range(100):
            read.append(number)
            yield b"x" * (1 << 16)

    (part,) = SPEC.read(long(), ORIGIN)
    assert part.rejects["reason"].to_pylist() == ["bad_json"]
    assert "one value of more than 1048576 bytes" in part.rejects["raw_text"][0].as_py()
    # The rest is read all the same: the file's identity is only known at its end.
    assert len(read) == 100


def test_samples_before_their_labels_are_named() -> None:
    data = b'{"data":{"result":[{"values":[[1748908800,"1"]],"metric":{"__name__":"a"}}]}}'
    assert decode(data, ORIGIN, SPEC).rejects["reason"].to_pylist() == ["bad_json"]


@given(st.dictionaries(st.from_regex(r"[a-z_.]{1,9}", fullmatch=True), st.text(), max_size=4))
def test_labels_survive_being_written(labels: dict[str, str]) -> None:
    assert read_labels(write_labels(labels)) == labels


def table(**changes: Any) -> RuleTable:
    rule = {"match": "m", "quantity": "cpu_energy", "device": "cpu{n}", "unit": "J", "statistic": "counter"}
    whole = {
        "match": "m",
        "labels": {"zone": ""},
        "quantity": "node_energy",
        "unit": "J",
        "statistic": "counter",
    }
    return RuleTable.model_validate(
        {"rules": [rule | {"labels": {"zone": "package-(?P<n>\\d+)"}} | changes, whole]}
    )


def test_a_rule_may_ask_for_labels() -> None:
    package = table().find("m", {"zone": "package-1"})
    assert package is not None
    assert package.devices == ("cpu1",)
    absent = table().find("m")
    assert absent is not None
    assert absent.quantity == "node_energy"
    assert table().find("m", {"zone": "core"}) is None
    assert table().may_map("m")
    assert not table().may_map("mm")


def test_every_group_of_a_label_names_the_device() -> None:
    with pytest.raises(ValidationError, match="two devices would be one"):
        table(device="cpu")


@pytest.mark.parametrize(
    ("label", "node"),
    [("instance", "10.0.0.7"), (["node", "nodename"], "n7"), ([], "n1"), ("absent", "n1")],
)
def test_the_first_label_that_is_there_names_the_node(label: str | list[str], node: str) -> None:
    line = b'DCGM_FI_DEV_GPU_TEMP{gpu="0",nodename="n7",instance="10.0.0.7:9400"} 34 1748908800000\n'
    result = decode(line, ORIGIN, Prometheus.model_validate({"node_label": label}))
    assert result.readings["node_id"].to_pylist() == [node]
