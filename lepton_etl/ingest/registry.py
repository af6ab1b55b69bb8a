"""The log formats: what a format declares, and how all of them are found.

A format is one module of this package with one class under `@log_format`: its fields are the settings of such a
source, `looks_like` tells its texts from those of other formats, `read` decodes them. The modules are found by looking
through the package, so nothing lists the formats.
"""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.ingest.sensors import RULES_FOLDER, load_rules

Subject = Literal["devices", "jobs", "grid", "weather"]


class LogFormat(BaseModel, ABC):
    """The settings of one format, and its decoder. Plain data: it travels to executors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = ""
    """The name in the settings; a format makes it a literal."""
    subjects: ClassVar[tuple[Subject, ...]] = ("devices",)
    """What the records are about."""
    followed_by: ClassVar[Literal["lines", "lines below a header", "whole files"]] = "lines"
    """What of a growing file can be decoded alone: new lines with the stamp before them, new lines with the file's
    first line, or only the file once it no longer changes."""

    jobs_are_named: ClassVar[bool] = False
    """Whether jobs have names of words, where other formats log a number: they may hold a person's."""

    told_by: ClassVar[Literal["names", "shape"]] = "names"
    """Whether `looks_like` knows words of its tool, or the shape of rows alone, which gives way to the former."""

    @staticmethod
    def looks_like(head: bytes) -> bool:
        """Return whether a UTF-8 text that begins so is of this format; never for formats that need settings."""
        return False

    @abstractmethod
    def read(self, chunks: Iterable[bytes], origin: Origin) -> Iterator[Decoded]:
        """Decode one decompressed file, part by part, to its end; never raises for bad input.

        What `chunks` raises passes through.
        """


Format = TypeVar("Format", bound=LogFormat)
_REGISTERED: Final[dict[str, type[LogFormat]]] = {}


def log_format(declared: type[Format]) -> type[Format]:
    """Register a format under the name that its field `format` holds. Raises TypeError where it is taken."""
    name = declared.model_fields["format"].default
    if not name or _REGISTERED.setdefault(name, declared) is not declared:
        raise TypeError(f"{name!r} is no name for another format")
    return declared


def setting(default: Any, description: str | None = None, **bounds: Any) -> Any:
    """Return a setting with a default; `bounds` as pydantic's Field takes them."""
    return Field(default=default, description=description, **bounds)


def rule_table(name: str) -> Any:
    """Return the setting `sensors` of a format whose rule table ships as conf/sensors/<name>.yaml."""
    return Field(
        default_factory=lambda: load_rules(RULES_FOLDER / f"{name}.yaml"),
        description=f"Rule table, or the path of its file; default conf/sensors/{name}.yaml.",
    )


@cache
def formats() -> Mapping[str, type[LogFormat]]:
    """Return every format by name."""
    room = importlib.import_module(__package__)
    for module in pkgutil.iter_modules(room.__path__, f"{__package__}."):
        importlib.import_module(module.name)
    return dict(sorted(_REGISTERED.items()))


def recognise(head: bytes, by_names_alone: bool = False) -> list[str]:
    """Return the formats that claim a UTF-8 text by its first bytes: one, none, or more where it is not certain."""
    claiming = {
        name: declared.told_by
        for name, declared in formats().items()
        if not (by_names_alone and declared.told_by == "shape") and declared.looks_like(head)
    }
    return [name for name, told_by in claiming.items() if told_by == "names"] or list(claiming)
