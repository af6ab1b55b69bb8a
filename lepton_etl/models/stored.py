"""Read a stored model without running what may be hidden in it, and predict with it; needs neither MLflow nor Spark.

skops alone is no boundary: MLflow takes skops' list of trusted types from the model's own MLmodel file. So
the folder's hash comes first (against the registry's tag), then an allow-list of file names, then our own
list of types and node kinds, read from the archive's schema as plain JSON; only then is the model built.
Source: GHSA-w582-9x45-8mpx, mlflow issue 25686.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from lepton_etl.errors import ModelError
from lepton_etl.models.features import UNKNOWN
from lepton_etl.models.interval import mean_of
from lepton_etl.models.metrics import Values

# What a model of devices returns, in this order: the mean and the ends of its 90 % interval.
OUTPUTS: Final = ("predicted_kwh", "predicted_lower_kwh", "predicted_upper_kwh")
MODEL_FILE: Final = "model.skops"
# MLflow adds this to the copy that it downloads; it is no part of what was logged.
_ADDED_BY_DOWNLOAD: Final = "registered_model_meta"
_FILES: Final = frozenset(
    {
        "MLmodel", MODEL_FILE, "conda.yaml", "python_env.yaml", "requirements.txt", "input_example.json",
        "serving_input_example.json", _ADDED_BY_DOWNLOAD,
    }
)  # fmt: skip
_TYPES: Final = frozenset(
    {
        "builtins.dict", "builtins.list", "builtins.slice", "builtins.str", "builtins.tuple", "numpy.ndarray",
        "numpy.float64", "sklearn.compose._column_transformer.ColumnTransformer", "sklearn.pipeline.Pipeline",
        "sklearn.ensemble._forest.RandomForestRegressor", "sklearn.preprocessing._encoders.OneHotEncoder",
        "sklearn.preprocessing._function_transformer.FunctionTransformer",
        "sklearn.tree._classes.DecisionTreeRegressor", "sklearn.tree._tree.Tree",
        "sklearn.tree._classes.ExtraTreeRegressor", "sklearn.ensemble._forest.ExtraTreesRegressor",
        # The facility's overhead: products of ramps.
        "sklearn.preprocessing._data.MinMaxScaler",
        # A fusion: the weighted mean of members that were fitted before.
        "sklearn.ensemble._voting.VotingRegressor", "sklearn.frozen._frozen.FrozenEstimator",
        "sklearn.utils._bunch.Bunch",
        # Models of classes and of normalised power: products and a sum of what the members say.
        "sklearn.ensemble._stacking.StackingRegressor", "sklearn.preprocessing._polynomial.PolynomialFeatures",
        # Linear members; products of rated power and a load that may be unknown.
        "numpy.dtype", "sklearn.impute._base.MissingIndicator",
        "sklearn.impute._base.SimpleImputer", "sklearn.linear_model._base.LinearRegression",
        # Histogram gradient boosting with its losses.
        "numpy.random._generator.Generator", "numpy.uint64", "sklearn._loss._loss.CyAbsoluteError",
        "sklearn._loss._loss.CyHalfGammaLoss", "sklearn._loss._loss.CyHalfSquaredError",
        "sklearn._loss.link.IdentityLink", "sklearn._loss.link.Interval", "sklearn._loss.link.LogLink",
        "sklearn._loss.loss.AbsoluteError", "sklearn._loss.loss.HalfGammaLoss", "sklearn._loss.loss.HalfSquaredError",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingRegressor",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.preprocessing._encoders.OrdinalEncoder",
    }
)  # fmt: skip
_NODE_KINDS: Final = frozenset(
    {
        "DTypeNode", "DictNode", "JsonNode", "ListNode", "LossNode", "NdArrayNode", "ObjectNode", "RandomGeneratorNode",
        "SliceNode", "TreeNode", "TupleNode", "TypeNode",
    }
)  # fmt: skip
# What skops does not trust by itself of the list above.
TRUSTED: Final = (
    "numpy.dtype", "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor", "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)  # fmt: skip
# A forest of the largest setting stays below; an archive that unpacks to more is a bomb.
_MAX_UNPACKED_BYTES: Final = 1 << 30


def folder_sha256(folder: Path) -> str:
    """Return SHA-256 over the relative names and the bytes of every file; a symbolic link is refused."""
    digest = sha256()
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_symlink():
            raise ModelError(
                f"{name} is a symbolic link", where="model folder", remedy="do not use this model"
            )
        if file.is_file() and name != _ADDED_BY_DOWNLOAD:
            data = file.read_bytes()
            digest.update(f"{name}\n{len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()


def checked_bytes(folder: Path, expected_sha256: str | None, where: str) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of `model.skops` and the parsed MLmodel of a folder that passed every check.

    Raises ModelError naming the model and what is wrong; nothing of the folder is executed.
    """
    if not expected_sha256:
        raise _refused("the version carries no tag model_sha256", where)
    found = folder_sha256(folder)
    if found != expected_sha256:
        raise _refused(f"the folder's SHA-256 is {found[:12]}, registered was {expected_sha256[:12]}", where)
    strange = sorted({p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - _FILES)
    if strange:
        raise _refused(f"unexpected files: {', '.join(strange)}", where)
    described = _describe(folder, where)
    data = (folder / MODEL_FILE).read_bytes()
    _refuse_unknown_types(data, where)
    return data, described


def build(data: bytes) -> Any:
    """Return the estimator of checked bytes."""
    import skops.io

    return skops.io.loads(data, trusted=list(TRUSTED))


def _describe(folder: Path, where: str) -> dict[str, Any]:
    try:
        described = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _refused(f"its MLmodel cannot be read ({type(error).__name__})", where) from error
    if not isinstance(described, dict):
        raise _refused("its MLmodel is no mapping", where)
    flavors = described.get("flavors", {})
    sklearn = flavors.get("sklearn", {})
    stored = sklearn.get("serialization_format")
    if stored != "skops":
        raise _refused(f"stored as {stored!r}; only skops is read", where)
    stored_by, ours = str(sklearn.get("sklearn_version")), version("scikit-learn")
    if stored_by.split(".")[:2] != ours.split(".")[:2]:
        # A fitted estimator's attributes are private to its release: another one may predict otherwise, or crash.
        raise _refused(f"it was stored by scikit-learn {stored_by}, here is {ours}", where)
    if sklearn.get("code") or flavors.get("python_function", {}).get("code"):
        raise _refused("it brings code of its own (code_paths)", where)
    if sklearn.get("pickled_model") != MODEL_FILE:
        raise _refused(f"its model file is {sklearn.get('pickled_model')!r}, not {MODEL_FILE}", where)
    return dict(described)


def _refuse_unknown_types(data: bytes, where: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > _MAX_UNPACKED_BYTES:
                raise _refused(f"it unpacks to {unpacked:,} bytes", where)
            schema = json.loads(archive.read("schema.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise _refused(f"{MODEL_FILE} is no skops archive ({error})", where) from error
    nodes = set(_nodes(schema))
    kinds = sorted({kind for kind, _ in nodes} - _NODE_KINDS)
    types = sorted({name for _, name in nodes} - _TYPES)
    if kinds or types:
        raise _refused(f"types that are not on the allow-list: {', '.join(types + kinds)}", where)


def _nodes(content: object) -> Iterator[tuple[str, str]]:
    """Return (node kind, qualified type) of every node of a skops schema."""
    if isinstance(content, dict):
        if "__loader__" in content or "__class__" in content:
            yield str(content.get("__loader__")), f"{content.get('__module__')}.{content.get('__class__')}"
        for value in content.values():
            yield from _nodes(value)
    elif isinstance(content, list):
        for value in content:
            yield from _nodes(value)


def _refused(what: str, where: str) -> ModelError:
    return ModelError(
        f"model refused before loading: {what}",
        where=where,
        remedy="train again, or set the alias back to a version that this project registered",
    )


# CV(RMSE) over all nodes and hours of the forward test, as a ratio: what a figure that rests on the model may miss by.
FORWARD_ERROR_TAG: Final = "forward_cv_rmse_ratio"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a registered model."""

    name: str
    version: str
    run_id: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FittedModel:
    """A fitted estimator with the columns that it takes, whether it has a version yet or not."""

    pipeline: Any
    columns: tuple[dict[str, Any], ...]

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(column["name"] for column in self.columns)

    def intervals(self, rows: pd.DataFrame) -> Values:
        """Return mean, lower and upper end in kWh of each device-hour, (n, 3); a model without ends says NaN."""
        return intervals(self.pipeline, self.columns, rows)

    def predict(self, rows: pd.DataFrame) -> Values:
        """Return kWh of each device-hour; `rows` has the feature columns in their units, unknown is NaN or None."""
        return predict(self.pipeline, self.columns, rows)


@dataclass(frozen=True)
class VerifiedModel(FittedModel):
    """A model whose folder passed the checks, with its version and its bytes (for executors)."""

    version: Version
    data: bytes


def predict(pipeline: Any, columns: tuple[dict[str, Any], ...], rows: pd.DataFrame) -> Values:
    """Return kWh of each row of `rows`, an array of shape (n,). Raises ModelError naming missing columns.

    The ends, which take most of the work of a few rows, are left out.
    """
    mean, inputs = mean_of(pipeline), _inputs_of(columns, rows)
    if inputs.empty:
        return np.zeros(0)
    found = np.asarray(mean.predict(inputs), dtype=np.float64)
    return found if mean is pipeline else np.maximum(found, 0.0)


def intervals(pipeline: Any, columns: tuple[dict[str, Any], ...], rows: pd.DataFrame) -> Values:
    """Return mean, lower and upper end of each row, (n, 3), NaN of ends that the model does not know; raises alike."""
    inputs = _inputs_of(columns, rows)
    if inputs.empty:
        return np.zeros((0, 3))
    found = np.asarray(pipeline.predict(inputs), dtype=np.float64)
    return found if found.ndim == 2 else np.column_stack([found, np.full((len(found), 2), np.nan)])


def _inputs_of(columns: tuple[dict[str, Any], ...], rows: pd.DataFrame) -> pd.DataFrame:
    missing = [column["name"] for column in columns if column["name"] not in rows.columns]
    if missing:
        raise ModelError(
            f"columns missing: {', '.join(missing)}",
            where="input rows",
            remedy="give every feature its column, with empty cells where it is unknown",
        )
    return model_inputs(columns, rows)


def model_inputs(columns: tuple[dict[str, Any], ...], rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows as the pipeline takes them: columns in order, numbers as float64, unknown categories named."""
    inputs = {}
    for column in columns:
        values = rows[column["name"]]
        if column["category"]:
            inputs[column["name"]] = values.where(values.notna(), UNKNOWN).astype(str).to_numpy(dtype=object)
        else:
            inputs[column["name"]] = pd.to_numeric(values).to_numpy(dtype=np.float64)
    return pd.DataFrame(inputs)
