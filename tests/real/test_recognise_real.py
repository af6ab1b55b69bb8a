"""Every real file is recognised as what it is, and those that need settings as nothing."""

import gzip
from fnmatch import fnmatch

import pytest

from lepton_etl.ingest.registry import recognise
from lepton_etl.ingest.text import in_utf8, peek
from tests.conftest import real_data

REAL = real_data()

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not REAL.is_dir(), reason="LEPTON_REAL_DATA does not exist"),
]

# The first pattern that fits a file's path says what it is; None: a table that only settings can explain.
EXPECTED: tuple[tuple[str, str | None], ...] = (
    ("harvard-ipmi-weather/ipmi/*", "ipmitool"),
    ("nvidia-smi-captures/*.metrics.gz", "prometheus"),
    ("nvidia-smi-captures/*", "nvidia_smi"),
    ("telegraf-hw/nvidia_smi__*", "nvidia_smi"),
    ("telegraf-hw/redfish__*", "redfish"),
    ("telegraf-hw/amd_rocm_smi__*", "rocm_smi"),
    ("telegraf-hw/slurm__*", "slurm"),
    ("dmtf-redfish-mockup/*", "redfish"),
    ("kepler-prometheus-range/*", "prometheus"),
    ("grid-ci-electricitymaps/*", "electricitymaps"),
    ("weather-openmeteo/*", "openmeteo"),
    ("*", None),
)
FILES = sorted(
    str(path.relative_to(REAL)) for path in REAL.rglob("*") if path.is_file() and path.suffix != ".md"
)


@pytest.mark.parametrize("name", FILES)
def test_real_file(name: str) -> None:
    path = REAL / name
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    head, _ = peek(in_utf8([data]))
    expected = next(format for pattern, format in EXPECTED if fnmatch(name, pattern))
    assert recognise(head) == ([] if expected is None else [expected])
