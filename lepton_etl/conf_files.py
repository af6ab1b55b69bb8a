"""The files of conf/ that runs need, wherever the package is: factors, sensor rules, expectations, Spark's settings.

In a checkout lepton_etl/conf is a link to conf/, which people read and edit; a wheel has a copy of it in that place.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from lepton_etl.errors import ConfigurationError

_FOLDER: Final = Path(__file__).resolve().parent / "conf"


def conf_path(name: str) -> Path:
    """Return the path of a file or folder of conf/, such as "factors"; ConfigurationError where there is none."""
    path = _FOLDER.resolve() / name
    if not path.exists():
        raise ConfigurationError(
            f"conf/{name} is missing from this installation",
            where=str(path),
            remedy="install the package again; in a checkout lepton_etl/conf is a link to conf/",
        )
    return path


def user_cache() -> Path:
    """Return the folder of the user's cache that is ours; it may not exist, and may be removed at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lepton-etl"
