"""What the settings say about each source of raw files: how to find them, and the settings of their format.

There is one class a registered format, told by the key `format`. A source is plain data and travels to executors.
"""

from __future__ import annotations

import re
from functools import reduce
from inspect import cleandoc
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import ConfigDict, Field, create_model, model_validator

from lepton_etl.config.sections import Identifier
from lepton_etl.ingest.registry import LogFormat, formats, setting
from lepton_etl.ingest.units import Zone


class Source(LogFormat):
    """A source of any format: what every source says. The format's own settings and its decoder come with it."""

    model_config = ConfigDict(validate_default=True)

    name: Identifier = Field(description="Name of the source in every reading.")
    path: str = Field(
        min_length=1,
        description="Pattern of the files (`*`, `?`, `**`), plain, gzip, zstd or xz; a path or s3:// or hdfs://.",
    )
    node_id_from_path: str | None = setting(None, "Regular expression with a group `node_id`.")
    time_from_path: str | None = setting(None, "Regular expression with a group `time` (ISO 8601, UTC).")
    timezone: Zone = setting("UTC", "IANA zone of stamps that carry none.")
    sampling_period_s: float | None = setting(
        None,
        "Declared distance of readings, and of the rounds of a loop that writes no stamps.",
        gt=0,
        le=86_400,
    )
    counter_max_j: float | None = setting(
        None,
        "Where joule counters of this source begin again at 0 (RAPL: max_energy_range_uj / 1e6); null: not "
        "known, and every fall is a reset.",
        gt=0,
        allow_inf_nan=False,
    )
    spot_samples: int | None = setting(
        None,
        "How many momentary samples a window mean rests on; null: all of the window was seen.",
        ge=1,
        le=1_000_000,
    )
    earlier_d: float | None = setting(
        None,
        "Days that a stamp may lie before the file's own time (that of its path, else when it was last "
        "written); null: 2 where the path names the time, else any stamp since 2000.",
        ge=0,
        allow_inf_nan=False,
    )
    later_d: float = setting(
        2.0,
        "Days that a stamp may lie after the file's own time: a day's file named by its first moment, "
        "and up to 14 hours of a zone. More only for forecasts.",
        ge=0,
        allow_inf_nan=False,
    )
    credit: str | None = setting(None, "Who made the data and under which licence, for the report.")

    @model_validator(mode="after")
    def _patterns_have_their_group(self) -> Self:
        for key, group in (("node_id_from_path", "node_id"), ("time_from_path", "time")):
            pattern = getattr(self, key)
            if pattern is None:
                continue
            try:
                groups = re.compile(pattern).groupindex
            except re.error as error:
                raise ValueError(f"{key} {pattern!r} is no regular expression: {error}") from error
            if group not in groups:
                raise ValueError(f"{key} {pattern!r} has no group (?P<{group}>...)")
        return self


def _source_of(declared: type[LogFormat]) -> type[Source]:
    """The class of sources of one format. It stands in this module under its name, where executors look it up."""
    name = f"{declared.__name__}Source"
    discriminator = declared.model_fields["format"]
    own: dict[str, Any] = {
        "__base__": (Source, declared),
        "__module__": __name__,
        "__doc__": cleandoc(declared.__doc__ or "").partition("\n\n")[0],
        "format": (discriminator.annotation, discriminator.default),
    }
    made: type[Source] = create_model(name, **own)
    globals()[name] = made
    return made


SOURCES: Final = {name: _source_of(declared) for name, declared in formats().items()}

if TYPE_CHECKING:
    AnySource = Source
else:
    AnySource = Annotated[reduce(or_, SOURCES.values()), Field(discriminator="format")]
