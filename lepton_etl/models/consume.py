"""Predicting without Spark: what a scheduler or dashboard does with the registered model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lepton_etl.errors import ModelError
from lepton_etl.models.registry import CHAMPION_ALIAS, Registry
from lepton_etl.models.verified import VerifiedModel


def load_champion(tracking_uri: str, name: str, alias: str = CHAMPION_ALIAS) -> VerifiedModel:
    """The verified model behind `models:/<name>@<alias>`."""
    return Registry(tracking_uri).verified_model(name, alias)


def read_rows(source: Path) -> pd.DataFrame:
    """Rows of a CSV file, a Parquet file or a Delta table's folder."""
    if (source / "_delta_log").is_dir():
        from deltalake import DeltaTable

        rows: pd.DataFrame = DeltaTable(str(source)).to_pyarrow_table().to_pandas()
        return rows
    if not source.is_file():
        raise ModelError(
            "no such file or Delta table", where=str(source), remedy="give CSV, Parquet or a Delta folder"
        )
    return pd.read_parquet(source) if source.suffix == ".parquet" else pd.read_csv(source)


def with_predictions(model: VerifiedModel, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with `predicted_kwh`, `model_name` and `model_version`."""
    return rows.assign(
        predicted_kwh=model.predict(rows), model_name=model.version.name, model_version=model.version.version
    )
