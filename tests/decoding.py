"""What tests of decoders share: the folders of tests/cases/ingest, and small files decoded at once."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import yaml

from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.registry import LogFormat, formats
from lepton_etl.ingest.text import UnreadableError, text_chunks


def settings_of(keys: Mapping[str, Any]) -> LogFormat:
    """The settings of a mapping with a `format` key."""
    return formats()[keys["format"]].model_validate(keys)


def decode(data: bytes, origin: Origin, settings: LogFormat) -> Decoded:
    """All the readings and rejects of one small file."""
    return Decoded.merge(settings.read([data], origin))


def read_bytes(data: bytes, name: str = "", max_bytes: int = 64 << 30) -> bytes | UnreadableError:
    """The whole text of a small file, or why there is none."""
    try:
        return b"".join(text_chunks(io.BytesIO(data), name, max_bytes))
    except UnreadableError as error:
        return error


@dataclass(frozen=True)
class Case:
    """A folder of tests/cases/ingest; tests/cases/README.md says what its files hold."""

    folder: Path
    data: bytes
    counts: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    recognised: bool = True
    damage: bool = False

    @property
    def format(self) -> str:
        return self.folder.parent.name

    def __str__(self) -> str:
        return f"{self.format}-{self.folder.name}"

    def read_settings(self) -> LogFormat:
        return settings_of({"format": self.format, **self.settings})

    def read_origin(self) -> Origin:
        path_time = self.origin.get("path_time")
        return Origin(
            "site",
            "source",
            "input.txt",
            self.origin.get("node_id"),
            self.origin.get("timezone", "UTC"),
            None if path_time is None else datetime.fromisoformat(path_time),
            sampling_period_s=self.origin.get("sampling_period_s"),
        )


def read_case(folder: Path) -> Case:
    """The case of a folder. Raises ValueError or TypeError where it is none."""
    (file,) = folder.glob("input.*")
    keys = yaml.safe_load((folder / "case.yaml").read_text(encoding="utf-8"))
    return Case(folder, file.read_bytes(), **keys)


CASES: Final = [
    read_case(folder) for folder in sorted((Path(__file__).parent / "cases" / "ingest").glob("*/*"))
]
