"""Export recommendations in forms that an operator takes along: commands to read and then run, never run here.

Every value is quoted for the shell: identifiers come from logs. What has no command that is safe to type becomes a line
of comment, and so does a name that the command would take for an option (`-oProxyCommand=...`) or for a list of others.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from lepton_etl.schema.privacy import PSEUDONYM

Row = Mapping[str, Any]
# Kubernetes' own controllers ignore it: a queue that honours it, or a person, looks at it.
NOT_BEFORE: Final = "lepton-etl/not-before"
# Slurm reads them as a list of names.
_OF_LISTS: Final = frozenset(",[]")
_HEAD: Final = (
    "#!/bin/sh",
    "# Recommendations of lepton_etl. Read each block before you run it; nothing was run.",
    "# Tell the project what you did: lepton-etl recommend apply ID --config ...",
    "set -eu",
)


def commands(rows: Iterable[Row], system: str) -> str:
    """Return a shell script of rows of gold/recommendation for `slurm` or `kubernetes`, a block for each."""
    blocks = [*_HEAD]
    for row in rows:
        blocks += ["", *_words(row)]
        numbers = json.loads(row["action_json"])
        refused = _refused(row, numbers)
        made = _MAKERS.get(row["action"], _by_hand)
        blocks += [refused] if refused else [*_looked_up(row), *made(row, numbers, system)]
    return "\n".join(blocks) + "\n"


def _refused(row: Row, numbers: Mapping[str, Any]) -> str | None:
    """A line of comment where a name is no name of one job or node to the commands."""
    for name in (row["job_id"], row["node_id"], *numbers.get("nodes", ())):
        if name is not None and (name.startswith("-") or set(name) & _OF_LISTS):
            return _one_line(
                f"# no command: {name!r} would be read as an option or a list; look at it by hand"
            )
    return None


def _words(row: Row) -> list[str]:
    saving, lower, upper = (row[f"expected_saving{end}_kwh"] for end in ("", "_lower", "_upper"))
    promised = "not promised" if saving is None else f"{saving:.1f} kWh ({lower:.1f} to {upper:.1f})"
    lines = [f"# {row['recommendation_id']} {row['lever']}: {row['advice']}", f"# saves {promised}"]
    if row["guard_rail"]:
        lines.append(f"# guard-rail: {row['guard_rail']}")
    return [_one_line(line) for line in lines]


def _one_line(text: str) -> str:
    """Keep a comment on its line: what comes from logs must not end it earlier."""
    return "".join(one if one.isprintable() else " " for one in text)


def _looked_up(row: Row) -> list[str]:
    """Find the names in the job's when the script is run, which ends where nobody knows one: scripts hold no names."""
    wanted = '--config "${CONFIG:?settings file of the site}"'
    return [
        f'name{number}="$(lepton-etl privacy name {pseudonym} {wanted})"'
        for number, pseudonym in enumerate(PSEUDONYM.findall(str(row["job_id"])), 1)
    ]


def _job(row: Row) -> str:
    """The job for the shell, with names that were looked up in place of their pseudonyms."""
    between = PSEUDONYM.split(str(row["job_id"]))
    parts = [shlex.quote(between[0])] if between[0] or len(between) == 1 else []
    for number, text in enumerate(between[1:], 1):
        parts += [f'"$name{number}"', shlex.quote(text) if text else ""]
    return "".join(parts)


def _start_later(row: Row, numbers: Mapping[str, Any], system: str) -> list[str]:
    start = datetime.fromisoformat(numbers["start_time"])
    job = _job(row)
    if system == "slurm":
        # Slurm reads local time of the controller; seconds since the epoch would need a plugin.
        when = f"$(date --date={shlex.quote(start.isoformat())} +%Y-%m-%dT%H:%M:%S)"
        return [
            f"scontrol hold {job}",
            f'scontrol update JobId={job} StartTime="{when}"',
            f"scontrol release {job}",
        ]
    return [f"kubectl annotate --overwrite job -- {job} {NOT_BEFORE}={start:%Y-%m-%dT%H:%M:%SZ}"]


def _power_limit(row: Row, numbers: Mapping[str, Any], system: str) -> list[str]:
    watts = f"{float(numbers['power_limit_w']):.0f}"
    nodes = [row["node_id"]] if row["node_id"] else list(numbers.get("nodes", ()))
    device = row["device_id"] or ""
    which = f" -i {int(device.removeprefix('gpu'))}" if device.removeprefix("gpu").isdigit() else ""
    if not nodes:
        return [f"# on each node of the class: nvidia-smi{which} -pl {watts}"]
    return [f"ssh -- {shlex.quote(node)} nvidia-smi{which} -pl {watts}" for node in nodes]


def _power_down(row: Row, numbers: Mapping[str, Any], system: str) -> list[str]:
    nodes = [row["node_id"]] if row["node_id"] else list(numbers["nodes"])
    if system == "slurm":
        # The reason goes through one more reader (Slurm's), which knows no quotes inside.
        names = shlex.quote(",".join(nodes))
        reason = shlex.quote(f"lepton-etl {row['recommendation_id']}")
        return [
            f"scontrol update NodeName={names} State=DRAIN Reason={reason}",
            "# when they are drained:",
            _one_line(f"# scontrol update NodeName={names} State=POWER_DOWN"),
        ]
    return [f"kubectl cordon -- {shlex.quote(node)}" for node in nodes]


def _look_at_job(row: Row, numbers: Mapping[str, Any], system: str) -> list[str]:
    job = _job(row)
    if system == "slurm":
        return [f"scontrol show job {job}", "# if its owner agrees:", _one_line(f"# scancel {job}")]
    return [
        f"kubectl describe job -- {job}",
        "# if its owner agrees:",
        _one_line(f"# kubectl delete job -- {job}"),
    ]


def _by_hand(row: Row, numbers: Mapping[str, Any], system: str) -> list[str]:
    listed = ", ".join(f"{name} {value}" for name, value in sorted(numbers.items()))
    return [_one_line(f"# by hand: {row['action']}{': ' + listed if listed else ''}")]


_MAKERS: Final[Mapping[str, Callable[[Row, Mapping[str, Any], str], list[str]]]] = {
    "start_later": _start_later,
    "set_power_limit": _power_limit,
    "power_down": _power_down,
    "end_job": _look_at_job,
}
