"""Rows of `nvidia-smi --query-gpu` as columns: a loop writes millions of cells, too many to look at one by one."""

from collections import Counter
from string import Formatter
from typing import Final

import polars as pl

from lepton_etl.fields import QUANTITIES
from lepton_etl.telemetry.assemble import NUMBER
from lepton_etl.telemetry.decoded import Origin
from lepton_etl.telemetry.nvidia_snapshot import ALTERNATIVES
from lepton_etl.telemetry.samples import CELLS
from lepton_etl.telemetry.sensors import Mapped, RuleTable, template_names

LABEL_OF: Final = {
    "index": "index", "uuid": "uuid", "gpu_uuid": "uuid", "pci.bus_id": "bus", "gpu_bus_id": "bus",
}  # fmt: skip
STAMP: Final = "timestamp"
_FIRST: Final = {"first": "yes"}


class QueryRows:
    """The rows below one header so far, in order; all have as many cells as it."""

    def __init__(self, columns: list[str], units: dict[str, str]) -> None:
        self.columns = columns
        self.is_stamped = STAMP in columns
        self._units = units
        self._lines: list[int] = []
        self._texts: list[str] = []

    def add(self, line: int, text: str) -> None:
        """Take a row, which has as many cells as the header."""
        self._lines.append(line)
        self._texts.append(text)

    def labels(self, text: str) -> tuple[tuple[str, str], ...]:
        """What a row says of whose it is."""
        cells = zip(self.columns, text.split(","), strict=True)
        return tuple(sorted((LABEL_OF[name], cell.strip()) for name, cell in cells if name in LABEL_OF))

    def cells(
        self, origin: Origin, rules: RuleTable, ignored: Counter[tuple[str, str]]
    ) -> list[pl.DataFrame]:
        """Cells with a value (CELLS) of the rows taken, which are forgotten; the others are counted in `ignored`."""
        lines, texts, self._lines, self._texts = self._lines, self._texts, [], []
        if not lines:
            return []
        parts = pl.Series("text", texts, dtype=pl.String).str.split(",")
        rows = pl.DataFrame(
            [pl.Series("source_position", lines, dtype=pl.Int64)]
            + [
                parts.list.get(place).str.strip_chars().alias(f"{place}")
                for place in range(len(self.columns))
            ]
        ).with_columns(
            self._stamp().alias("stamp"), *(self._label(name) for name in ("index", "uuid", "bus"))
        )
        frames = []
        for place, name in enumerate(self.columns):
            if name == STAMP or name in LABEL_OF:
                continue
            text = pl.col(f"{place}")
            filled = rows.filter(text != "").with_columns(
                text.alias("text"), self._is_first(name).alias("first")
            )
            for is_first, labels in ((True, _FIRST), (False, {})):
                column = filled.filter(pl.col("first") == is_first)
                mapped = rules.find(name, labels)
                if mapped is None:
                    ignored[(name, "unmapped")] += column.height
                    continue
                valued = column.filter(~rules.says_no_value(pl.col("text")))
                ignored[(name, "no_value")] += column.height - valued.height
                frames.append(self._mapped(valued, name, mapped, origin, rules))
        return frames

    def _stamp(self) -> pl.Expr:
        if not self.is_stamped:
            return pl.lit(None, dtype=pl.String)
        return pl.col(f"{self.columns.index(STAMP)}").str.replace_all("/", "-", literal=True)

    def _label(self, label: str) -> pl.Expr:
        """The label's column, null where it is empty; null where no column gives it."""
        places = [place for place, name in enumerate(self.columns) if LABEL_OF.get(name) == label]
        filled = [pl.when(pl.col(f"{place}") != "").then(pl.col(f"{place}")) for place in places]
        return pl.coalesce(*filled, pl.lit(None, dtype=pl.String)).alias(label)

    def _is_first(self, name: str) -> pl.Expr:
        """Whether the cell is the one to take of several names for one thing: the first with a number, or none has."""
        group = next((names for names in ALTERNATIVES if name in names), (name,))
        valued = {
            other: pl.col(f"{self.columns.index(other)}").str.contains(r"^\d")
            for other in group
            if other in self.columns
        }
        before = [valued[other] for other in group[: group.index(name)] if other in valued]
        taken = valued[name] & ~pl.any_horizontal(pl.lit(False), *before)
        return taken | ~pl.any_horizontal(*valued.values())

    def _mapped(
        self, column: pl.DataFrame, name: str, mapped: Mapped, origin: Origin, rules: RuleTable
    ) -> pl.DataFrame:
        quantity = QUANTITIES[mapped.quantity]
        parts = pl.col("text").str.extract_groups(rf"^(?<number>{NUMBER})\s*(?<unit>[^\s\d.].*)?$")
        own = pl.coalesce(parts.struct["unit"], pl.lit(self._units.get(name, "")))
        spoken = column.with_columns(
            pl.coalesce(parts.struct["number"], pl.col("text")).alias("raw_value"),
            pl.when(parts.struct["number"].is_not_null())
            .then(own)
            .otherwise(pl.lit(""))
            .alias("logged_unit"),
            pl.lit(mapped.rule, dtype=pl.Int32).alias("rule"),
            _device(mapped.devices).alias("device_id"),
        ).with_columns(
            pl.when(pl.col("logged_unit") == "")
            .then(pl.lit(rules.rules[mapped.rule].unit[0]))
            .otherwise("logged_unit")
            .alias("raw_unit")
        )
        converted = spoken.join(
            rules.convert_pairs(spoken), on=["rule", "raw_unit"], how="left", maintain_order="left"
        )
        said = pl.concat_str(
            pl.lit(f"{name} = "), "raw_value", pl.lit(" "), "logged_unit"
        ).str.strip_chars_end()
        reason = (
            pl.lit("empty_node_id")
            if origin.node_id is None
            else pl.when(pl.col("device_id").is_null()).then(pl.lit("empty_device_id"))
        )
        when = pl.when(pl.col("stamp").is_not_null()).then(pl.concat_str(pl.lit(" at "), "stamp"))
        return converted.with_columns(
            pl.lit(name).alias("sensor"),
            pl.lit(origin.node_id, dtype=pl.String).alias("node_id"),
            pl.lit(mapped.quantity).alias("quantity"),
            pl.lit(mapped.statistic).alias("statistic"),
            pl.lit(mapped.point, dtype=pl.String).alias("point"),
            pl.lit(0.0).alias("window_s"),
            pl.lit(1, dtype=pl.Int32).alias("multiplicity"),
            pl.lit(quantity.ge).alias("low"),
            pl.lit(quantity.le).alias("high"),
            reason.alias("found_reason"),
            pl.concat_str(said, when.otherwise(pl.lit(""))).alias("raw_text"),
        ).select(pl.col(column).cast(kind) for column, kind in CELLS.items())


def _device(templates: tuple[str, ...]) -> pl.Expr:
    """The first device template whose labels are all there; null if none is."""
    devices = [
        pl.concat_str(
            *(
                part
                for literal, label, _, _ in Formatter().parse(template)
                for part in (pl.lit(literal), *([pl.col(label)] if label else []))
            )
        )
        for template in templates
        if set(template_names(template)) <= {"index", "uuid", "bus"}
    ]
    return pl.coalesce(*devices, pl.lit(None, dtype=pl.String))
