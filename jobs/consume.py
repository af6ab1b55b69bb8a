"""Predict with the registered champion, away from Spark.

    python jobs/consume.py --tracking-uri sqlite:////srv/lepton/mlflow.db --name node-energy --rows hours.csv

`--rows` is a CSV file, a Parquet file or a Delta table's folder with the model's columns (`--columns` prints
them with units). The prediction goes to standard output as CSV, or to `--output`.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from lepton_etl.csv_cells import write_csv
from lepton_etl.errors import LeptonError
from lepton_etl.models.registry import load_champion, read_rows, with_predictions
from lepton_etl.redaction import guard_streams


def main(
    tracking_uri: Annotated[str, typer.Option(help="MLflow tracking URI.")],
    name: Annotated[str, typer.Option(help="Registered model.")] = "node-energy",
    alias: Annotated[str, typer.Option(help="Alias of the version.")] = "champion",
    rows: Annotated[Path | None, typer.Option(help="CSV, Parquet or Delta folder with the columns.")] = None,
    output: Annotated[Path | None, typer.Option(help="CSV file to write; default: standard output.")] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Print the model's columns with units.")] = False,
) -> None:
    """Load `models:/<name>@<alias>` through the checks and predict kWh of each device-hour."""
    guard_streams()
    try:
        model = load_champion(tracking_uri, name, alias)
        if columns:
            for column in model.columns:
                typer.echo(f"{column['name']}\t{column['unit'] or 'text'}\t{column['description']}")
            return
        if rows is None:
            raise typer.BadParameter("give --rows, or --columns to see what they must hold")
        predicted = with_predictions(model, read_rows(rows))
    except LeptonError as error:
        typer.echo(f"consume: {error}", err=True)
        raise typer.Exit(int(error.exit_code)) from error
    with output.open("w", encoding="utf-8") if output else nullcontext(sys.stdout) as out:
        # NaN is pandas' word for a figure that is not known.
        known = predicted.astype(object).where(predicted.notna(), None)  # type: ignore[call-overload]
        write_csv(out, list(map(str, known.columns)), known.itertuples(index=False))


if __name__ == "__main__":
    typer.run(main)
