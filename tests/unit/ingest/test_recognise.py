"""Every text is recognised as its own format and as no other."""

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lepton_etl.ingest.auto import Auto, claims
from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.registry import LogFormat, formats, log_format, recognise
from lepton_etl.ingest.text import HEAD_BYTES, in_utf8, peek
from tests.decoding import CASES, Case, decode, settings_of

ORIGIN = Origin("site", "source", "input.txt", "n1", "UTC")
RECOGNISABLE = {name for name, declared in formats().items() if "looks_like" in vars(declared)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_is_recognised_as_its_own_format_alone(case: Case) -> None:
    head, _ = peek(in_utf8([case.data]))
    expected = [case.format] if case.format in RECOGNISABLE and case.recognised else []
    assert claims(head) == expected
    assert claims(head.replace(b"\n", b"\r\n")) == expected


def test_a_format_is_recognised_or_needs_settings() -> None:
    for name, declared in formats().items():
        if name in RECOGNISABLE or declared is Auto:
            assert declared().format == name
        else:
            with pytest.raises(ValidationError):
                declared()


def test_a_name_is_taken_once() -> None:
    with pytest.raises(TypeError, match="'ipmitool' is no name for another format"):
        log_format(type("Other", (formats()["ipmitool"],), {}))
    assert issubclass(formats()["ipmitool"], LogFormat)


@pytest.mark.parametrize(
    "head",
    [
        b"", b"{}", b"[", b"# gpu", b"time, power\n1, 2\n", b'{"card0": 1}'[:8],
        b'{"status": "success", "data": {}}', b"<?xml version='1.0'?><html/>", b"\0" * 100, b'{"a": "@odata.id"}',
    ],
)  # fmt: skip
def test_others_are_claimed_by_none(head: bytes) -> None:
    assert recognise(head) == []


def auto(data: bytes) -> Decoded:
    result = decode(data, ORIGIN, Auto())
    result.check()
    return result


@pytest.mark.parametrize("case", [case for case in CASES if case.damage and not case.settings], ids=str)
def test_auto_reads_as_the_format_with_its_defaults(case: Case) -> None:
    data = case.data.removeprefix(codecs.BOM_UTF8)
    plain = decode(data, ORIGIN, settings_of({"format": case.format}))
    for text in (data, codecs.BOM_UTF8 + data, codecs.BOM_UTF16_LE + data.decode().encode("utf-16-le")):
        found = auto(text)
        assert found.readings.equals(plain.readings)
        assert found.rejects.equals(plain.rejects)
        assert found.jobs.equals(plain.jobs)


def test_a_text_longer_than_the_head_is_read_whole() -> None:
    line = b'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 34 %d\n'
    lines = [line % (1_748_908_800_000 + second) for second in range(5_000)]
    assert sum(map(len, lines)) > 3 * HEAD_BYTES
    parts = Auto().read(iter(lines), ORIGIN)
    assert sum(part.readings.num_rows for part in parts) == len(lines)


QUERY = b"timestamp, index, power.draw [W]\n2025/06/03 00:00:02, 0, 61.50 W\n"
SACCT = b'{"jobs": [%s],\n "meta": {"slurm": {"release": "24.11"}}}'
JOB = (
    b'{"job_id": 1, "state": {"current": ["COMPLETED"]}, "time": {"submission": 1748908800}, "comment": "%s"}'
)


@pytest.mark.parametrize(
    "noise", [b"NVIDIA-SMI has failed because of the driver\nNVML 580\n", b"Sorry\n" * 39]
)
def test_noise_before_the_data_is_refused_and_the_data_read(noise: bytes) -> None:
    result = auto(noise + QUERY)
    assert result.readings["value"].to_pylist() == [61.5]
    assert result.readings["source_position"].to_pylist() == [noise.count(b"\n") + 2]
    assert set(result.rejects["reason"].to_pylist()) == {"bad_line"}
    assert result.rejects.num_rows == noise.count(b"\n")


def test_more_noise_than_a_shell_makes_is_no_data() -> None:
    assert auto(b"Sorry\n" * 40 + QUERY).rejects["reason"].to_pylist() == ["unknown_format"]


@pytest.mark.parametrize("size", [1 << 10, HEAD_BYTES, 3 << 20])
@pytest.mark.parametrize("noise", [b"", b"sacct: warning: no such user\n"])
def test_a_key_at_the_end_tells_a_document_of_any_size(size: int, noise: bytes) -> None:
    result = auto(noise + SACCT % (JOB % (b"x" * size)))
    assert result.jobs["job_id"].to_pylist() == ["1"]
    assert result.rejects["raw_text"].to_pylist() == [noise.decode().rstrip()] * bool(noise)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        (b"Fri Apr  5 11:58:55 2019\n+---+\n| NVIDIA-SMI 415.27  Driver Version: 415.27 |\n", "--query-gpu="),
        (b"GPU  Temp   AvgPwr  SCLK    MCLK     Fan  Perf  PwrCap  VRAM%\n0    47.0c  91.0W\n", "rocm-smi -a --json"),
        (b"GPU  POWER  GPU_TEMP  MEM_TEMP\n  0  132 W\n", "amd-smi metric --json"),
        (b"JobID           Elapsed\n------------ ----------\n1 00:00:01\n", "sacct --parsable2"),
        (b" Performance counter stats for 'system wide':\n\n  82.1 Joules power/energy-pkg/\n", "RAPL"),
        (b"power_meter-acpi-0\nAdapter: ACPI interface\npower1:  412.00 W\n", "hwmon"),
        (b'{"power_meter-acpi-0":{\n "Adapter": "ACPI interface",\n "power1":{"power1_average": 212.0}}}\n', "hwmon"),
        (b"Locating sensor record...\nSensor ID  : Pwr Consumption (0x98)\n Sensor Reading : 168 Watts\n", "sdr elist"),
        (b"Power Tracking Statistics\nStatistic  : System Peak Power\nPeak Reading : 512 W\n", "Redfish"),
        (b"[Key=System.Embedded.1#ServerPwr.1]\nRealtime.Power=168 W | 573 Btu/hr\n", "Redfish"),
        (b"servers.cn001.ipmi.power 212 1748908800\n", "line protocol"),
        (b"cn001: Current Power    : 164 Watts\ncn002: Current Power    : 170 Watts\n", "one file a host"),
        (b'{"fields":{"value":212},"name":"ipmi_sensor","tags":{"host":"cn001"},"timestamp":1748908800}\n', "influx"),
        (b"JobId=1 JobName=x UserId=a(1) JobState=RUNNING SubmitTime=2025-06-03T00:00:00\n", "show job -d"),
        (b'PUTVAL "cn001/ipmi/power-total" interval=10.000 1748908800.1:212\n', "write_prometheus"),
        (b'{"cn001": {"power_node_watts": 850.5, "socket_0": {"power_cpu_watts": 1}}}', "RAPL"),
        (b"# geopm_version: 3.1.0\nTIME|CPU_ENERGY|CPU_POWER\n0.005|123.4|nan\n", "RAPL"),
        (b'[\n {"device_name": "NVIDIA A100",\n  "power_draw": "212W"}\n]\n', "--query-gpu="),
        (b'{\n "period": {\n "duration": 16.5, "unit": "ms"},\n "power": {"GPU": 1.2}}\n', "xpu-smi dump"),
        (b"/sys/cray/pm_counters/power:612 W 1748908800123456 us\n", "CEEMS"),
        (b"PowerNet-MIB::rPDU2DeviceStatusPower.1 = INTEGER: 212\n", "delimited"),
        (b"CPU name:\tIntel(R) Xeon(R)\n| Metric  | HWThread 0 |\n|  Power [W]  |  95.1 |\n", "RAPL"),
        (b"----\nCluster/User/Account Utilization 2025-06-03\n", "sacct --parsable2"),
    ],
)  # fmt: skip
def test_output_for_people_is_refused_by_name_with_the_way_out(text: bytes, instead: str) -> None:
    (reject,) = auto(text).rejects.to_pylist()
    assert reject["reason"] == "unread_dialect"
    assert instead in reject["raw_text"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n \n",
        b"hello, world\n",
        b"a,b\n1,2\n",
        b"{}",
        b"[1, 2]",
        b"PAR1\0\0",
        b"<html>",
        b"\0" * 99,
        b"# a\n",
    ],
)
def test_unknown_content_is_one_reject_read_to_its_end(data: bytes) -> None:
    chunks = iter((data, b"x" * 100_000, b"end"))
    (part,) = Auto().read(chunks, ORIGIN)
    assert part.rejects["reason"].to_pylist() == ["unknown_format"]
    assert next(chunks, None) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_judged(data: bytes) -> None:
    auto(data)
