"""Three years of real GPU servers night by night: what each month erred by, which shifts were found, what was done.

    python -m bench.model_shifts [--folder FOLDER --inventory CSV] [--train-days 365] [--picture docs/model_shifts.svg]

At the beginning of each month the stage trains (`bench.models.months_of`, one candidate, the gate of the
settings) on the days before; a model that the gate lets pass is champion from then on. The nights of the month are the
product's (`lepton_etl.models.scoring.night`): prediction with the model's interval, correction, the interval of the
night, the test for shifts. Nothing was fitted to these servers but the four numbers of the night's interval and the
limit of the test, which were chosen on them from a handful each.

False alarms: the same test on the night's own claims, which hold, with the days of each device in random order. Found
in a week: the same with a change of stated size from day 30 on, in standard deviations of the claim.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import altair as alt
import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import vl_convert

from bench.inputs import REAL
from bench.measure import Figure, figure, print_figures, write
from bench.models import SETTINGS as MODEL_OF
from bench.models import device_hours_of, months_of
from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.metrics import Values
from lepton_etl.models.scoring import HISTORY, night
from lepton_etl.models.shift import shifts
from lepton_etl.models.stored import OUTPUTS
from lepton_etl.schema.energy import MODEL_SHIFT, PREDICTION
from lepton_etl.schema.types import arrow_schema
from lepton_etl.uncertainty import Z, cv_rmse

Change = Callable[[Values], Values]

COVERAGE_AFTER_SHIFT: Final = 0.8
WEEK_DAYS: Final = 7
MONTH_DAYS: Final = 30
# Of the test's false alarms and delays: orders of the days, and days of each sequence before and after a change.
ORDERS: Final = 40
CALM_DAYS: Final = 30
CHANGES: Final[dict[str, Change]] = {
    "level +1": lambda one: one + 1.0, "level +1.5": lambda one: one + 1.5, "level +2": lambda one: one + 2.0,
    "spread x2": lambda one: 2.0 * one, "spread x3": lambda one: 3.0 * one,
}  # fmt: skip
_CLAIM: Final = ("site_id", "cluster_id", "node_id", "device_id", "model_name", "model_version")


def nights(every: pl.DataFrame, settings: ModelSettings) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, str]]:
    """Return rows of gold/prediction and gold/model_shift of every night, and what each month's training came to."""
    nothing, no_shift = (
        pl.DataFrame(arrow_schema(table).empty_table()) for table in (PREDICTION, MODEL_SHIFT)
    )
    done = list(months_of(every, settings, 1))
    scored = pl.concat(rows for _, rows in done if rows is not None).drop("newest_kwh")
    rows, tested = night(scored, nothing.select(HISTORY), no_shift)
    return rows, tested, {f"{one.month:%Y-%m}": one.reason or "champion" for one, _ in done}


def by_month(rows: pl.DataFrame) -> pl.DataFrame:
    """Errors and coverage of each server and month: of the prediction, and after the night's correction; percent."""
    inside = {
        of: pl.col("energy_kwh").is_between(f"{of}_lower_kwh", f"{of}_upper_kwh")
        for of in ("predicted", "recalibrated")
    }
    off = {of: pl.col("energy_kwh") - pl.col(f"{of}_kwh") for of in inside}
    return (
        rows.filter(pl.col("recalibrated_kwh").is_not_null(), pl.col("energy_kwh").is_not_null())
        .group_by("node_id", pl.col("date").dt.truncate("1mo").alias("month"))
        .agg(
            *(
                ((one**2).mean().sqrt() / pl.col("energy_kwh").mean() * 100).alias(f"{of}_cv")
                for of, one in off.items()
            ),
            *((one.mean() * 100).alias(f"{of}_coverage") for of, one in inside.items()),
            pl.col("shift_since").is_not_null().any().alias("shifted"),
            pl.len().alias("hours"),
        )
        .sort("node_id", "month")
    )


def episodes(tested: pl.DataFrame) -> pl.DataFrame:
    """Shifts as they were found: since when, found on which day, in force until."""
    return (
        tested.filter(pl.col("shift_kind").is_not_null())
        .group_by("node_id", "shift_kind", "shift_since", "shift_found", "model_version")
        .agg(pl.col("date").max().alias("until"))
        .with_columns((pl.col("shift_found") - pl.col("shift_since")).dt.total_days().alias("delay_days"))
        .sort("node_id", "shift_found")
    )


def shift_figures(rows: pl.DataFrame, tested: pl.DataFrame) -> list[Figure]:
    """Figures of each server: errors, coverage by quarter and after shifts, how soon shifts were found."""
    found: list[Figure] = []
    months, shifted = by_month(rows), episodes(tested)
    for (node,), own in rows.drop_nulls(["energy_kwh", "recalibrated_kwh"]).group_by(
        "node_id", maintain_order=True
    ):
        measured = own["energy_kwh"].to_numpy()
        for of, name in (("predicted", "champion"), ("recalibrated", "nightly")):
            cv = cv_rmse(measured, own[f"{of}_kwh"].to_numpy())
            found.append(figure(f"{node}: CV(RMSE), {name}", 100 * (cv or 0.0), "%", 1))
        inside = own.with_columns(
            pl.col("energy_kwh")
            .is_between("recalibrated_lower_kwh", "recalibrated_upper_kwh")
            .alias("inside"),
            pl.col("date").dt.truncate("1q").alias("quarter"),
        )
        of_quarter = inside.group_by("quarter").agg(pl.col("inside").mean())["inside"].to_numpy()
        in_range = float(((of_quarter >= 0.87) & (of_quarter <= 0.93)).sum())
        found += [
            figure(
                f"{node}: nightly interval holds, least of a quarter", 100 * float(of_quarter.min()), "%", 1
            ),
            figure(
                f"{node}: nightly interval holds, most of a quarter", 100 * float(of_quarter.max()), "%", 1
            ),
            figure(f"{node}: quarters in 87 to 93 %", in_range, f"of {len(of_quarter)}", 1),
        ]
        own_shifts = shifted.filter(pl.col("node_id") == node)
        in_time = own_shifts.filter(pl.col("delay_days") < WEEK_DAYS).height
        touched = months.filter((pl.col("node_id") == node) & pl.col("shifted"))
        least = [float(touched[f"{of}_coverage"].min() or 0.0) for of in ("predicted", "recalibrated")]  # type: ignore[arg-type]
        found += [
            figure(f"{node}: shifts found", own_shifts.height, "", 1),
            figure(f"{node}: of these within a week of their first day", in_time, "", 1),
            figure(
                f"{node}: prediction's interval, least of the {MONTH_DAYS} days after a shift was found",
                _least_after(own, own_shifts), "%", 1, at_least=100 * COVERAGE_AFTER_SHIFT,
            ),
            figure(
                f"{node}: prediction's interval, least of a calendar month with a shift", least[0], "%", 1,
                at_least=100 * COVERAGE_AFTER_SHIFT,
            ),
            figure(
                f"{node}: nightly interval, least of a calendar month with a shift", least[1], "%", 1,
                at_least=100 * COVERAGE_AFTER_SHIFT,
            ),
        ]  # fmt: skip
    return found


def _least_after(own: pl.DataFrame, own_shifts: pl.DataFrame) -> float:
    """Return the least share, percent, that the prediction's interval held of MONTH_DAYS since it was widened."""
    inside = pl.col("energy_kwh").is_between("predicted_lower_kwh", "predicted_upper_kwh")
    shares = [
        own.filter(pl.col("date").is_between(found + timedelta(days=1), found + timedelta(days=MONTH_DAYS)))
        .select(100 * inside.mean())
        .item()
        for found in own_shifts["shift_found"]
    ]
    return min((one for one in shares if one is not None), default=0.0)


def test_figures(rows: pl.DataFrame) -> list[Figure]:
    """False alarms of the test where what is claimed holds; how often a change of stated size is found in a week."""
    off = pl.col("energy_kwh") - pl.col("recalibrated_kwh")
    end = pl.when(off >= 0).then("recalibrated_upper_kwh").otherwise("recalibrated_lower_kwh")
    claimed = rows.with_columns((off * Z / (end - pl.col("recalibrated_kwh")).abs()).alias("_deviation"))
    claimed = claimed.filter(pl.col("_deviation").is_finite())
    found: list[Figure] = []
    rng = np.random.default_rng(20250603)
    for (node,), own in claimed.group_by("node_id", maintain_order=True):
        days = [one["_deviation"].to_numpy() for _, one in own.group_by("date", maintain_order=True)]
        days = [one for one in days if len(one) >= 20]
        orders = [rng.permutation(len(days)) for _ in range(ORDERS)]
        calm = _sequences(days, orders, lambda one: one, len(days))
        alarms = calm.filter(pl.col("shift_found") == pl.col("date")).height
        found.append(
            figure(
                f"{node}: false alarms a device-year", alarms / (ORDERS * len(days) / 365), "1/year", ORDERS
            )
        )
        draws = [rng.integers(0, len(days), 2 * CALM_DAYS) for _ in range(4 * ORDERS)]
        for name, change in CHANGES.items():
            changed = _sequences(days, draws, change, CALM_DAYS)
            last = changed["date"].min() + timedelta(days=CALM_DAYS + WEEK_DAYS - 1)  # type: ignore[operator]
            hit = changed.filter(
                pl.col("shift_kind").is_not_null()
                & pl.col("date").is_between(last - timedelta(days=WEEK_DAYS - 1), last)
            )
            share = hit["node_id"].n_unique() / len(draws)
            found.append(figure(f"{node}: {name} found in a week", 100 * share, "%", len(draws)))
    return found


def _sequences(
    days: Sequence[Values], orders: Sequence[npt.NDArray[np.int64]], change: Change, first: int
) -> pl.DataFrame:
    """Rows of gold/model_shift of devices that have these days in these orders, changed from the day `first` on."""
    start = date(2020, 1, 1)
    parts = []
    for number, order in enumerate(orders):
        chosen = [change(days[at]) if place >= first else days[at] for place, at in enumerate(order)]
        stamps = [start + timedelta(days=place) for place, one in enumerate(chosen) for _ in one]
        parts.append(
            pl.DataFrame(
                {
                    "node_id": str(number), "deviation": np.concatenate(chosen),
                    "date": stamps,
                }
            )
        )  # fmt: skip
    hours = pl.concat(parts).with_columns(
        *(pl.lit("x").alias(name) for name in _CLAIM if name != "node_id"),
        pl.col("date").cast(pl.Datetime("us", "UTC")).alias("hour_start"),
        (1 + pl.col("deviation") / 100).alias("energy_kwh"),
        *(pl.lit(1 + side * Z / 100).alias(name) for name, side in zip(OUTPUTS, (0, -1, 1), strict=True)),
    )
    return shifts(hours, pl.DataFrame(arrow_schema(MODEL_SHIFT).empty_table()))


def draw(rows: pl.DataFrame, tested: pl.DataFrame, told: dict[str, str]) -> str:
    """SVG: error and coverage of each server by month, shifts in force as bands, new champions as ticks."""
    months, found = by_month(rows), episodes(tested)
    panels: list[Any] = []
    champions = pd.DataFrame(
        {"month": pd.to_datetime([f"{m}-01" for m, what in told.items() if what == "champion"])}
    )
    # To the end of the last month, in which a shift may begin.
    first, last = months.select(
        pl.col("month").min(), pl.col("month").max().dt.offset_by("1mo").alias("last")
    ).row(0)
    x = alt.X("month:T", title=None, axis=alt.Axis(format="%Y-%m"), scale=alt.Scale(
        domain=[str(first), str(last)]))  # fmt: skip
    for (node,), own in months.group_by("node_id", maintain_order=True):
        bands = found.filter(pl.col("node_id") == node).to_pandas()
        shaded = (
            alt.Chart(bands).mark_rect(opacity=0.35, clip=True)
            .encode(alt.X("shift_since:T"), x2="until:T",
                    color=alt.Color("shift_kind:N", title="shift in force",
                                    scale=alt.Scale(domain=["more", "less", "spread"],
                                                    range=["#e6a141", "#7aa6d8", "#b0b0b0"])))
        )  # fmt: skip
        ticks = alt.Chart(champions).mark_point(shape="triangle-up", filled=True, color="black", size=35).encode(
            x, y=alt.value(108)
        )  # fmt: skip
        layers = [
            alt.layer(shaded, _lines(own, x, of, bounds), ticks).properties(
                width=620, height=110, title=f"{node}: {title}"
            )
            for of, title, bounds in (
                ("cv", "CV(RMSE) of a month, %", (0.0, 60.0)),
                ("coverage", "share inside the 90 % interval, %", (50.0, 100.0)),
            )
        ]  # fmt: skip
        panels += layers
    chart = alt.vconcat(*panels).configure_axis(labelFontSize=10).configure_title(fontSize=11, anchor="start")
    svg: str = vl_convert.vegalite_to_svg(json.dumps(chart.to_dict()))
    return svg


def _lines(own: pl.DataFrame, x: alt.X, what: str, bounds: tuple[float, float]) -> Any:
    named = {"predicted": "champion", "recalibrated": "nightly"}
    long = pd.concat(
        [
            pd.DataFrame(
                {"month": own["month"].to_list(), "value": own[f"{of}_{what}"].to_numpy(), "figure": name}
            )
            for of, name in named.items()
        ]
    )
    long["month"] = pd.to_datetime(long["month"])
    return (
        alt.Chart(long).mark_line(point=True, clip=True)
        .encode(
            x,
            alt.Y("value:Q", title=None, scale=alt.Scale(domain=list(bounds))),
            strokeDash=alt.StrokeDash("figure:N", title="lines", legend=alt.Legend(symbolType="stroke")),
            color=alt.value("#333333"),
        )
    )  # fmt: skip


def main() -> None:
    """Print the figures and write var/bench/model-shifts.json and the picture."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--folder", type=Path, default=REAL / "biohpc-gpu-servers")
    options.add_argument("--inventory", type=Path, default=MODEL_OF.with_name("biohpc-inventory.csv"))
    options.add_argument("--train-days", type=int, default=365)
    options.add_argument("--picture", type=Path, default=Path("docs/model_shifts.svg"))
    chosen = options.parse_args()
    every, settings = device_hours_of(chosen.folder, chosen.inventory, MODEL_OF)
    asked = {"candidates": ("boosting_gentle",), "slim": False, "train_days": chosen.train_days}
    rows, tested, told = nights(every, settings.model_copy(update=asked))
    for month, what in told.items():
        print(f"{month}: {what}")
    with pl.Config(tbl_rows=-1):
        print(episodes(tested))
        print(by_month(rows))
    found = [*shift_figures(rows, tested), *test_figures(rows)]
    print_figures("Shifts of real servers, night by night", found)
    chosen.picture.write_text(draw(rows, tested, told), encoding="utf-8")
    print(f"figures: {write('model-shifts', found)}; picture: {chosen.picture}")


if __name__ == "__main__":
    main()
