"""What the operator reads when something fails: the root cause, where, and what to do; nothing of the data's raw."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lepton_etl.errors import LakeError, LeptonError, of_system, printable
from pipelines.engine import SparkEngine, root_cause
from tests.faults.site import DAY, SmallSite, ipmi_text

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

NIGHTLY = ("nightly", "--engine", "local", "--date", str(DAY), "--stage", "bronze")


def refuse(item: int) -> int:
    if item == 3:
        raise LakeError("version 7 lacks a file", where="silver/interval", remedy="restore it")
    return 1 // (item - 4)


@pytest.mark.spark
def test_an_error_of_a_spark_task_is_read_as_it_was_raised(spark: SparkSession) -> None:
    engine = SparkEngine.of(spark)
    with pytest.raises(LakeError) as raised:
        engine.map(refuse, [3])
    assert str(raised.value) == "silver/interval: version 7 lacks a file -> restore it"
    with pytest.raises(LeptonError, match=r"^a task of Spark: ZeroDivisionError: integer"):
        engine.map(refuse, [4])


def test_the_root_cause_of_the_jvm_is_the_last_one() -> None:
    text = (
        "An error occurred while calling o79.count.\n: org.apache.spark.SparkException: Job aborted\n\tat o.a(B:1)\n"
        "Caused by: java.io.IOException: No space left on device\n\tat java.b(C.java:2)\n"
    )
    found = root_cause(text)
    assert found.what == "java.io.IOException: No space left on device"
    refused = of_system(found)
    assert refused is not None and refused.what == "No space left on device"


def is_told_in_one_line(done: subprocess.CompletedProcess[str], what: str, where: str) -> None:
    last = done.stderr.rstrip().splitlines()[-1]
    assert done.returncode == 1
    assert what in last and where in last and "->" in last
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
@pytest.mark.parametrize(
    ("option", "what"), [("size=64k", "No space left on device"), ("ro", "Read-only file system")]
)
def test_a_full_or_read_only_lake_is_told_in_one_line(tmp_path: Path, option: str, what: str) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    root = tmp_path / "lake"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(root)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        is_told_in_one_line(site.command(*NIGHTLY), what, str(root))
    finally:
        subprocess.run(["umount", str(root)], check=True)
    site.bronze()
    site.is_conserved()


def test_without_java_one_line_says_what_to_do(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt", ipmi_text())
    for home in ("", str(tmp_path / "nowhere")):
        done = site.command(
            "nightly",
            "--date",
            str(DAY),
            "--stage",
            "bronze",
            env=os.environ | {"JAVA_HOME": home, "PATH": "/nowhere"},
        )
        last = done.stderr.rstrip().splitlines()[-1]
        assert done.returncode == 2, done.stderr
        assert f"JAVA_HOME={home}: Spark's Java process did not start" in last and "-> name a Java 17" in last
        assert "Traceback" not in done.stderr
    assert site.command(*NIGHTLY, env=os.environ | {"JAVA_HOME": ""}).returncode == 0


def test_names_of_the_data_do_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    site.deliver("n1-2025-06-03.txt.\x1b[31m", b"\x1b]0;title\x07 x[/b]\n" + ipmi_text())
    done = site.command(*NIGHTLY)
    assert done.returncode == 0, done.stderr
    for table, column, shown in (("bronze/file", "path", "x1b"), ("bronze/reject", "raw_text", "[/b]")):
        done = site.verb("tables", "show", table, "--column", column)
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
        assert "\x1b" not in done.stdout + done.stderr


def test_control_characters_stand_as_escapes() -> None:
    assert printable("a\x1b[31mb\r\u202e\udcff\nü") == "a\\x1b[31mb\\r\\u202e\\udcff\nü"


def test_an_unknown_error_is_not_called_the_systems() -> None:
    assert of_system(ValueError("no such thing")) is None
