"""Give what a run writes the rights that the settings ask for, in the driver and in every process that runs tasks.

The environment carries it to tasks: a process inherits the umask of the one that starts it, and the Java process that
starts Spark's workers is there before the settings are read.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Final

UMASK: Final = "LEPTON_UMASK"


def set_umask(umask: str | None) -> None:
    """Take these rights from all that this process and those that it starts write from now on; None changes nothing."""
    if umask is not None:
        os.environ[UMASK] = umask
        os.umask(int(umask, 8))


@cache
def inherit_umask() -> None:
    """Take the rights that the driver's settings say, in a process that runs tasks; once."""
    set_umask(os.environ.get(UMASK))
