"""Commands that an operator takes along: a shell reads them as meant, whatever the logs called a job or a node."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.recommend.export import commands

# Each command prints its arguments, one a line, in place of doing anything.
STUBS = "".join(
    f'{name}() {{ for one in {name} "$@"; do printf \'%s\\n\' "$one"; done; }}\n'
    for name in ("scontrol", "kubectl", "ssh")
)


def row(action: str, numbers: dict[str, Any], **subject: str | None) -> dict[str, Any]:
    return {
        "recommendation_id": "0123456789abcdef", "lever": "shift", "action": action, "advice": "words",
        "guard_rail": "a limit", "action_json": json.dumps(numbers), "expected_saving_kwh": 2.0,
        "expected_saving_lower_kwh": 1.0, "expected_saving_upper_kwh": 3.0, "job_id": None, "node_id": None,
        "device_id": None,
    } | subject  # fmt: skip


def said(script: str) -> list[str]:
    done = subprocess.run(["sh"], input=STUBS + script, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


def test_a_job_that_starts_later_is_held_given_its_time_and_released() -> None:
    one = row("start_later", {"start_time": "2025-06-04T02:00:00+00:00"}, job_id="4711")
    told = said(commands([one], "slurm"))
    assert told[:3] == ["scontrol", "hold", "4711"] and told[-3:] == ["scontrol", "release", "4711"]
    assert any(part.startswith("StartTime=2025-06-0") for part in told)
    assert said(commands([one], "kubernetes"))[-1] == "lepton-etl/not-before=2025-06-04T02:00:00Z"


def test_a_limit_is_for_its_board_and_nodes() -> None:
    one = row("set_power_limit", {"power_limit_w": 212.4}, node_id="n1", device_id="gpu3")
    assert said(commands([one], "slurm")) == ["ssh", "--", "n1", "nvidia-smi", "-i", "3", "-pl", "212"]
    assert "# on each node" in commands([row("set_power_limit", {"power_limit_w": 200})], "slurm")


def test_nodes_are_drained_before_they_are_powered_down() -> None:
    one = row("power_down", {"nodes": ["n1", "n2"]})
    assert said(commands([one], "slurm")) == [
        "scontrol", "update", "NodeName=n1,n2", "State=DRAIN", "Reason=lepton-etl 0123456789abcdef"
    ]  # fmt: skip
    assert said(commands([one], "kubernetes")) == [
        "kubectl",
        "cordon",
        "--",
        "n1",
        "kubectl",
        "cordon",
        "--",
        "n2",
    ]


def test_what_has_no_command_is_a_comment() -> None:
    script = commands([row("set_supply_temperature", {"supply_temp_c": 24.5})], "slurm")
    assert said(script) == [] and "by hand: set_supply_temperature: supply_temp_c 24.5" in script


_NO_LIST = str.maketrans("", "", ",[]")


@pytest.mark.parametrize("name", ["-oProxyCommand=touch x", "--all", "n[1-999]", "n1,n2"])
@pytest.mark.parametrize("system", ["slurm", "kubernetes"])
def test_a_name_that_is_an_option_or_a_list_to_the_command_is_refused(name: str, system: str) -> None:
    numbers = {"start_time": "2025-06-04T02:00:00+00:00", "power_limit_w": 200}
    subjects: tuple[dict[str, Any], ...] = ({"job_id": name}, {"node_id": name}, {})
    for action in ("start_later", "set_power_limit", "power_down", "end_job"):
        for subject in subjects:
            script = commands(
                [row(action, numbers | ({} if subject else {"nodes": ["n1", name]}), **subject)], system
            )
            assert said(script) == []
            assert f"# no command: {name!r}" in script


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1).filter(lambda text: "\0" not in text), st.sampled_from(("slurm", "kubernetes")))
def test_names_from_logs_run_nothing(name: str, system: str) -> None:
    name = (name.encode("utf-8", "ignore").decode() or "x").lstrip("-").translate(_NO_LIST) or "x"
    numbers = {"start_time": "2025-06-04T02:00:00+00:00", "power_limit_w": 200}
    for action in ("start_later", "set_power_limit", "power_down", "end_job", "something_else"):
        nasty, plain = (
            commands(
                [row(action, numbers | {"nodes": [one, "n2"]}, job_id=one, advice=one, guard_rail=one)],
                system,
            )
            for one in (name, "x")
        )
        assert counted(nasty) == counted(plain)


def counted(script: str) -> str:
    """Which commands the shell runs, and with how many arguments each."""
    stubs = "".join(f'{name}() {{ echo {name} "$#"; }}\n' for name in ("scontrol", "kubectl", "ssh"))
    return subprocess.run(["sh"], input=stubs + script, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["$(touch x)", "`id`", "a;id", "a\nid", "a' b", "a&&id", "#x"])
def test_a_nasty_job_is_one_argument(name: str) -> None:
    one = row("end_job", {}, job_id=name)
    done = subprocess.run(
        ["sh"], input='scontrol() { printf "%s|" "$#" "$@"; }\n' + commands([one], "slurm"), capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout == f"3|show|job|{name}|"


def test_a_namespace_that_is_a_pseudonym_is_looked_up_when_the_script_is_run(tmp_path: Path) -> None:
    (tmp_path / "lepton-etl").write_text(
        '#!/bin/sh\n[ "$*" = "privacy name t-aaaabbbbccccdddd --config site.yaml" ] && echo shop\n'
    )
    (tmp_path / "lepton-etl").chmod(0o755)
    script = STUBS + commands([row("end_job", {}, job_id="t-aaaabbbbccccdddd/web-0")], "kubernetes")
    found = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh"], input=script, capture_output=True, text=True, env=found | {"CONFIG": "site.yaml"}
    )
    assert done.stdout.split("\n")[:-1] == ["kubectl", "describe", "job", "--", "shop/web-0"]
    assert subprocess.run(["sh"], input=script, capture_output=True, text=True, env=found).returncode != 0
