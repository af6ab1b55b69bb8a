"""`scontrol show node`: state of the nodes, and their power as slurmctld last heard it from its energy plugin."""

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from lepton_etl.ingest.decoded import MAX_RAW_TEXT_CHARS, Decoded, Origin
from lepton_etl.ingest.registry import LogFormat, log_format, setting
from lepton_etl.ingest.rounds import Rounds
from lepton_etl.ingest.samples import Fault, Sample, decode_samples
from lepton_etl.ingest.sensors import Rules, RuleTable, SensorRule
from lepton_etl.ingest.text import numbered_lines

# Base state and flags (IDLE+DRAIN+POWERED_DOWN), or its short marks (IDLE~, DOWN*). A node that its power saving has
# powered down sleeps, whatever else is said of it; one on its way there or back draws power, as one that reboots does.
# Source: man scontrol and sinfo, node state codes; output of Slurm 14.11 to 24.11.
STATES: Final = {
    r".*(?:\+power(?:ed_down)?\b|~).*": "asleep",
    r".*(?:power(?:ing|ed)?_(?:up|down|on)|reboot|[#%@^!]).*": "on",
    r"(?:down|error|fail|unknown|future).*|.*(?:\*|\+(?:not_responding|fail|invalid_reg)\b).*": "failed",
    r".*(?:\bmaint|\$).*": "maintenance",
    r".*(?:drain|drng).*": "drained",
    r"(?:idle|alloc|mix|comp|reserved|resv|planned|blocked|perfctrs|inval).*": "on",
}
# Which part of the node the plugin measures is not said, so the power has no point; Slurm takes it for the node.
# A plugin that reads nothing gives 0 W: a node that answers draws more.
RULES: Final = RuleTable(
    rules=(
        SensorRule(match="CurrentWatts", quantity="node_power", unit=("W",)),
        SensorRule(match="ConsumedJoules", quantity="node_energy", unit=("J",), statistic="counter"),
        SensorRule(match="State", quantity="node_state", unit=("dimensionless",), states=STATES),
    ),
    no_value=("", "0", "n/s", "n/a"),
)
# What of a node is measured. AveWatts is a mean over no stated time, LowestJoules an older state of the counter,
# the load no utilisation, and where external sensors stand is the site's own affair: counted as unmapped.
FIELDS: Final = (
    "State", "CPULoad", "CurrentWatts", "AveWatts", "LowestJoules", "ConsumedJoules", "ExtSensorsJoules",
    "ExtSensorsWatts", "ExtSensorsTemp",
)  # fmt: skip
_NODE: Final = re.compile(r"NodeName=(\S+)")
_FIELD: Final = re.compile(rf"(?:^|\s)({'|'.join(FIELDS)})=(\S*)")
# From here on a node's text is what people wrote.
_FREE_TEXT: Final = re.compile(r"(?:^|\s)(?:Reason|Comment|Extra)=")
_LOOKS_LIKE: Final = re.compile(rb"^\s*NodeName=\S+ (?:Arch=|CoresPerSocket=)")


@log_format
class ScontrolNode(LogFormat):
    """`scontrol show node`, several lines a node or one (`-o`). It holds no stamp: the path's time is that of a file.

    A record is a measured field of a node; the lines are structure.
    Source: man scontrol, show node; output of Slurm 14.11 to 24.11.
    """

    format: Literal["scontrol_node"] = "scontrol_node"
    followed_by = "whole files"
    sensors: Rules = setting(
        RULES,
        "Rule table, or the path of its file; default: CurrentWatts, ConsumedJoules and State are the node's.",
    )

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a text begins with a node as scontrol shows it."""
        return _LOOKS_LIKE.match(head) is not None

    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode the nodes of a file; a line before any node is a reject (bad_line), as is a damaged one."""
        node: str | None = None
        taken: set[str] = set()
        rounds = Rounds()
        for lines in numbered_lines(chunks):
            samples, faults, structure = [], [], 0
            for position, line in enumerate(lines.series(), lines.first_position):
                text = line.strip()
                begins = _NODE.match(text)
                if "\x00" in line or "\ufffd" in line or (text and node is None and not begins):
                    faults.append(Fault(position, "bad_line", text[:MAX_RAW_TEXT_CHARS]))
                    continue
                structure += 1
                if begins:
                    node, taken = begins[1], set()
                free = _FREE_TEXT.search(text)
                for sensor, value in _FIELD.findall(text[: free.start()] if free else text):
                    # State=DOWN*, and once more in what a plugin adds: the first of a node holds.
                    if sensor not in taken:
                        samples.append(Sample(position, sensor, value, node_id=node))
                    taken.add(sensor)
            yield decode_samples(
                samples, origin, self.sensors, faults=faults, structure_lines=structure, rounds=rounds
            )
