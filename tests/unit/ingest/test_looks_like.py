"""What begins like the output of a BMC's or GPU's tool is claimed by that format and by no other."""

from pathlib import Path

import pytest

from lepton_etl.ingest import nvidia_smi, otlp_json, redfish, rocm_smi

CASES = Path(__file__).parents[2] / "cases"
CLAIMS = {
    "redfish": redfish.looks_like,
    "nvidia_smi": nvidia_smi.looks_like,
    "rocm_smi": rocm_smi.looks_like,
    "otlp_json": otlp_json.looks_like,
}
# Without its header a query says nothing of itself.
UNTOLD = {"nvidia_smi/csv_without_header"}
FOLDERS = sorted(folder.parent for folder in CASES.glob("*/*/input.txt"))


def claimed(head: bytes) -> list[str]:
    return [name for name, looks_like in CLAIMS.items() if looks_like(head)]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_a_case_is_claimed_by_its_own_format(folder: Path) -> None:
    told = folder.parent.name in CLAIMS and f"{folder.parent.name}/{folder.name}" not in UNTOLD
    head = (folder / "input.txt").read_bytes()[: 64 << 10]
    assert claimed(head) == ([folder.parent.name] if told else [])
    assert claimed(head.replace(b"\n", b"\r\n")) == claimed(head)


@pytest.mark.parametrize(
    "head",
    [
        b"", b"{}", b"[", b"# gpu", b"# HELP gpu power", b"time, power\n1, 2\n", b'{"card0": 1}'[:8],
        b'{"status": "success", "data": {}}', b"<?xml version='1.0'?><html/>", b"\0" * 100, b'{"a": "@odata.id"}',
    ],
)  # fmt: skip
def test_others_are_claimed_by_none(head: bytes) -> None:
    assert claimed(head) == []
