"""Keep models in MLflow, by its only door: log, register, promote, roll back, and load what was verified.

MLflow costs seconds to import, so it is imported inside the functions. A model comes out of here only through
`verified_model`, which checks the folder against the hash that was recorded when the version was registered. A
scheduler or dashboard predicts with `load_champion`, without Spark.

Every question has a deadline: MLflow's own timeouts are for each read of a socket, which a dripping server meets for
ever, and a held lock file has none.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import wraps
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

import pandas as pd

from lepton_etl.config.sections import GateSettings
from lepton_etl.errors import LeptonError, ModelError, RegistryError
from lepton_etl.models.features import TARGET, TARGET_UNIT, Feature, described
from lepton_etl.models.fit import CHAMPION, ON_NEWER_HOURS, Trained
from lepton_etl.models.metrics import ALL_NODES, as_lines, as_records, errors, in_a_sentence, overall
from lepton_etl.models.promotion import Release
from lepton_etl.models.stored import (
    OUTPUTS,
    TRUSTED,
    VerifiedModel,
    Version,
    build,
    checked_bytes,
    folder_sha256,
)
from lepton_etl.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lepton_etl.config.settings import MlflowSettings
    from lepton_etl.models.cards import Cards

CHAMPION_ALIAS: Final = "champion"
# Of a version whose alias was moved: who was told of it before. Written last, so without it a move is not finished.
ANNOUNCED_TAG: Final = "champion_event"
PROMOTED: Final = "promoted"
ROLLED_BACK: Final = "rolled back"
# Of a version that passed the gate and is not champion yet.
ACCEPTED: Final = "accepted"
# Names of the facility's models: this and the site.
FACILITY_PREFIX: Final = "facility-overhead-"
_LONGEST: Final = 63
_SQLITE: Final = "sqlite:///"
_PARITY: Final = "parity.json"
# Read by MLflow when it is imported: no usage data leaves, and a batch log holds no progress bars.
_MLFLOW_ENVIRONMENT: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "GIT_PYTHON_REFRESH": "quiet",
    # MLflow's own patience with a server that is down is minutes; the night says so and goes on.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
}
# What fits and stores models, in the order of its import.
LEARNING: Final = ("scipy.stats", "sklearn.ensemble", "skops.io")
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
DEADLINE_S: Final = 60.0
# Registries that missed their deadline: a run waits for one but once.
_silent: set[str] = set()
_here = threading.local()
P = ParamSpec("P")
R = TypeVar("R")


def _in_time(
    question: Callable[Concatenate[Registry, P], R],
) -> Callable[Concatenate[Registry, P], R]:
    """Ask within the registry's deadline. The question raises RegistryError where no answer comes."""

    @wraps(question)
    def asked(registry: Registry, /, *given: P.args, **named: P.kwargs) -> R:
        if getattr(_here, "is_asking", False):
            return question(registry, *given, **named)
        return registry.answer(lambda: question(registry, *given, **named))

    return asked


def facility_model(site_id: str) -> str:
    """Return the registered name of a site's model: letters, digits, '_' and '-' only; others are told by a hash."""
    longest = _LONGEST - len(FACILITY_PREFIX)
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "_-") else "-" for one in site_id)
    if plain == site_id and len(plain) <= longest:
        return f"{FACILITY_PREFIX}{site_id}"
    return f"{FACILITY_PREFIX}{plain[: longest - 9]}-{sha256(site_id.encode()).hexdigest()[:8]}"


def import_ahead() -> None:
    """Import MLflow and what fits and stores models, some seconds: called while something else is waited for."""
    import_learning()
    import_mlflow()
    import_module("mlflow.store.tracking.sqlalchemy_store")


def import_mlflow() -> None:
    """Import MLflow without its database."""
    _say_to_mlflow()
    import_module("mlflow")


def import_learning() -> None:
    """Import what fits and stores models, a second."""
    for name in LEARNING:
        import_module(name)


def _say_to_mlflow() -> None:
    for key, value in _MLFLOW_ENVIRONMENT.items():
        os.environ.setdefault(key, value)


@dataclass(frozen=True, slots=True)
class Move:
    """The champion's alias goes to `version`, from `before` (None: nothing was champion).

    `decision` is PROMOTED or ROLLED_BACK, `reason` why `before` is left.
    """

    version: Version
    before: Version | None
    decision: str
    reason: str = ""


def _to_nobody(_: Move) -> str:
    return "nobody"


class Registry:
    """One tracking and registry server, or one SQLite file.

    `announce` hears of each move of the champion's alias before it is done; its answer becomes ANNOUNCED_TAG.
    """

    def __init__(
        self,
        tracking_uri: str,
        artifact_location: str | None = None,
        experiment: str = "lepton-etl",
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.deadline_s = deadline_s
        self.artifact_location = artifact_location
        self.experiment = experiment
        self.announce: Callable[[Move], str] = _to_nobody
        self._client: MlflowClient | None = None
        _say_to_mlflow()

    @classmethod
    def of(cls, settings: MlflowSettings) -> Registry:
        """Return the registry on the server that the settings name."""
        return cls(
            settings.tracking_uri, settings.artifact_location, settings.experiment, settings.deadline_s
        )

    def answer(self, question: Callable[[], R]) -> R:
        """Return what the question gives, asked in a thread that is left alone where the deadline passes.

        Raises RegistryError then, for each later question to this registry, and for what MLflow, its database or its
        server raise.
        """
        remedy = "look at mlflow.tracking_uri: its server, or who holds its database; then run the same command again"
        if self.tracking_uri in _silent:
            raise RegistryError("it missed its deadline before", where="model registry", remedy=remedy)
        answer: Future[R] = Future()

        def ask() -> None:
            _here.is_asking = True
            try:
                answer.set_result(question())
            except BaseException as error:  # it is raised in the thread that asked
                answer.set_exception(error)

        threading.Thread(target=ask, name="model registry", daemon=True).start()
        try:
            return answer.result(self.deadline_s)
        except LeptonError:
            raise
        except Exception as error:
            what = redact(next(iter(str(error).splitlines()), type(error).__name__))[:200]
            if not answer.done():
                _silent.add(self.tracking_uri)
                what = f"no answer within {self.deadline_s:g} s (mlflow.deadline_s)"
            elif not _is_of_mlflow(error):
                raise
            raise RegistryError(what, where="model registry", remedy=remedy) from error

    @_in_time
    def latest(self, name: str, tag: str, value: str) -> Version | None:
        """Return the newest version of the model that carries this tag."""
        # The value is compared here: what comes from outside is no part of a filter string.
        found = [v for v in self.versions(name) if v.tags.get(tag) == value]
        return max(found, key=lambda v: int(v.version), default=None)

    @_in_time
    def version(self, name: str, version: str) -> Version | None:
        return next((v for v in self.versions(name) if v.version == version), None)

    @_in_time
    def names(self, prefixes: tuple[str, ...]) -> list[str]:
        """Return the registered models whose names begin with one of the prefixes, sorted."""
        if self._is_unmade():
            return []
        client, found, token = self._connected(), [], None
        while True:
            page = client.search_registered_models(max_results=1000, page_token=token)
            found += [one.name for one in page if one.name.startswith(prefixes)]
            token = page.token
            if not token:
                return sorted(found)

    @_in_time
    def champion(self, name: str, alias: str = CHAMPION_ALIAS) -> Version | None:
        """Return the version behind the alias, None where model or alias do not exist."""
        if self._is_unmade():
            return None
        from mlflow.exceptions import MlflowException

        try:
            found = self._connected().get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        return Version(name, str(found.version), str(found.run_id), dict(found.tags))

    def register(
        self, name: str, trained: Trained, features: tuple[Feature, ...], params: Mapping[str, Any],
        tags: Mapping[str, str], cards: Cards | None = None,
    ) -> Version:  # fmt: skip
        """Release a trained model of device energy with its errors by node and its cards."""
        texts = {"errors.txt": "\n".join(as_lines(trained.errors)) + "\n"}
        return self.release(
            name,
            Release(
                estimator=trained.pipeline,
                example=trained.example,
                columns=with_limits(described(features), trained.within),
                target=_TARGET_COLUMN,
                outputs=OUTPUTS,
                params=params,
                tags=tags if cards is None else {**tags, "onnx": _onnx(cards)},
                metrics=_metrics(trained),
                texts=texts if cards is None else texts | cards.texts,
                tables={
                    "errors.json": {"errors": as_records(trained.errors)},
                    _PARITY: {"groups": [asdict(one) for one in trained.groups]},
                },
                onnx=None if cards is None else cards.onnx.data,
                verdict=trained.verdict,
                description=_description(trained),
            ),
        )

    def release(self, name: str, release: Release) -> Version:
        """Log the run with its files, register the model as a version with its hash, promote it where accepted."""
        version = self._registered(name, release)
        if release.verdict.promoted:
            self.promote(version)
        return self.version(name, version.version) or version

    def promote(self, version: Version) -> None:
        """Make a version champion."""
        self._announced(Move(version, self.champion(version.name), PROMOTED))

    def _announced(self, move: Move) -> None:
        # Outside of the deadline: who is told may wait for others to be told before.
        self.point(move, self.announce(move))

    @_in_time
    def point(self, move: Move, event: str) -> None:
        """Move the alias and mark both versions; done again it changes nothing."""
        client, version, before = self._connected(), move.version, move.before
        client.set_registered_model_alias(version.name, CHAMPION_ALIAS, version.version)
        if move.decision == ROLLED_BACK and before is not None and before.version != version.version:
            for tag, value in (("promotion", ROLLED_BACK), ("promotion_reason", move.reason)):
                client.set_model_version_tag(before.name, before.version, tag, value)
        for tag, value in (("promotion", PROMOTED), (ANNOUNCED_TAG, event)):
            client.set_model_version_tag(version.name, version.version, tag, value)

    @_in_time
    def _registered(self, name: str, release: Release) -> Version:
        """Register a version with its hash and the verdict on it."""
        import mlflow

        client = self._connected()
        experiment = client.get_experiment_by_name(self.experiment)
        assert experiment is not None  # _connected made it
        names = ",".join(column["name"] for column in release.columns)
        until = release.tags.get("test_until", release.tags.get("cut_time", ""))[:10]
        with (
            self._fluent(),
            mlflow.start_run(
                experiment_id=experiment.experiment_id,
                run_name=f"{name} until {until or 'an unknown day'}",
                description=redact(release.description),
            ) as run,
        ):
            params = {"features": names, **release.params}
            mlflow.log_params({key: redact(str(value)) for key, value in params.items()})
            tags = {key: redact(value) for key, value in release.tags.items()}
            mlflow.set_tags(tags)
            mlflow.log_metrics(dict(release.metrics))
            mlflow.log_input(_data_set(release.tags), context="training")
            described_columns = {
                "columns": list(release.columns), "target": dict(release.target), "outputs": list(release.outputs)
            }  # fmt: skip
            for file, table in {"columns.json": described_columns, **release.tables}.items():
                mlflow.log_dict(dict(table), file)
            for file, text in release.texts.items():
                mlflow.log_text(text, file)
            if release.onnx is not None:
                _log_graph(release.onnx)
            logged = _log_model(name, release)
            with tempfile.TemporaryDirectory() as folder:
                copy = Path(
                    mlflow.artifacts.download_artifacts(artifact_uri=logged.model_uri, dst_path=folder)
                )
                model_hash, size = folder_sha256(copy), _size(copy)
            mlflow.log_metric("model_size_bytes", size)
            verdict = {
                "promotion": ACCEPTED if release.verdict.promoted else "refused",
                "promotion_reason": redact(release.verdict.reason),
                "model_sha256": model_hash,
            }
            made = mlflow.register_model(logged.model_uri, name, tags=tags | verdict)
        version = Version(name, str(made.version), str(run.info.run_id), dict(made.tags))
        client.update_model_version(name, version.version, redact(release.description))
        client.update_registered_model(name, _what_it_is(release))
        return version

    @_in_time
    def verified_model(
        self, name: str, alias: str = CHAMPION_ALIAS, version: str | None = None
    ) -> VerifiedModel:
        """Return the model behind the alias, or of a given version, after every check of `stored.py`.

        Raises ModelError where there is none or where it is not what was registered; nothing is loaded then.
        """
        found = self.champion(name, alias) if version is None else self.version(name, version)
        asked = f"models:/{name}@{alias}" if version is None else f"models:/{name}/{version}"
        if found is None:
            raise ModelError("there is no such model", where=asked, remedy="run the stage train first")
        uri = f"models:/{name}/{found.version}"
        with self._files_of(found) as copy:
            data, described = checked_bytes(copy, found.tags.get("model_sha256"), uri)
        columns = tuple((described.get("metadata") or {}).get("columns") or ())
        if not columns:
            raise ModelError("the model does not say its columns", where=uri, remedy="train again")
        return VerifiedModel(build(data), columns, found, data)

    @_in_time
    def digest(self, version: Version) -> str:
        """Return SHA-256 over the files of a version as they are now (`stored.folder_sha256`).

        Raises ModelError where they hold a symbolic link, RegistryError where they cannot be read.
        """
        with self._files_of(version) as copy:
            return folder_sha256(copy)

    @contextmanager
    def _files_of(self, version: Version) -> Iterator[Path]:
        """Give a copy of a version's files."""
        import mlflow

        uri = f"models:/{version.name}/{version.version}"
        with self._fluent(), tempfile.TemporaryDirectory() as folder:
            yield Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder))

    @_in_time
    def errors_of(self, version: Version) -> list[dict[str, Any]]:
        """Return the error records that the version's training run logged."""
        return self._records(version, "errors.json", "errors")

    @_in_time
    def groups_of(self, version: Version) -> list[dict[str, Any]]:
        """Return the errors by class, cluster and tenant that the run logged; [] of a run from before they were."""
        logged = {one.path for one in self._connected().list_artifacts(version.run_id)}
        return self._records(version, _PARITY, "groups") if _PARITY in logged else []

    def _records(self, version: Version, file: str, name: str) -> list[dict[str, Any]]:
        import mlflow

        with tempfile.TemporaryDirectory() as folder:
            copy = mlflow.artifacts.download_artifacts(
                artifact_uri=f"runs:/{version.run_id}/{file}", dst_path=folder, tracking_uri=self.tracking_uri
            )
            records: list[dict[str, Any]] = json.loads(Path(copy).read_text(encoding="utf-8"))[name]
            return records

    def roll_back(self, name: str, version: str, reason: str) -> None:
        """Point the champion's alias back at an earlier version that was promoted, and mark the one it leaves.

        Raises ModelError where the version was never promoted.
        """
        wanted, present = self.version(name, version), self.champion(name)
        if wanted is None or wanted.tags.get("promotion") != PROMOTED:
            raise ModelError(
                f"version {version} was never champion",
                where=f"models:/{name}",
                remedy="see lepton-etl models",
            )
        self._announced(Move(wanted, present, ROLLED_BACK, reason))

    @_in_time
    def versions(self, name: str) -> list[Version]:
        """Return every registered version of the model. Raises ModelError for what is no model name."""
        if not _NAME.fullmatch(name):
            raise ModelError(
                f"{name!r} is no model name", where="model.name", remedy="letters, digits, '_', '-'"
            )
        if self._is_unmade():
            return []
        client = self._connected()
        versions: list[Version] = []
        token: str | None = None
        while True:
            page = client.search_model_versions(f"name = '{name}'", max_results=1000, page_token=token)
            versions += [
                Version(name, str(found.version), str(found.run_id), dict(found.tags)) for found in page
            ]
            token = page.token
            if not token:
                return versions

    @_in_time
    def make(self) -> None:
        """Make the store and the experiment where they do not exist; what registers does so by itself."""
        self._connected()

    def _is_unmade(self) -> bool:
        """Whether it is a SQLite file that nobody has made yet: asking would make it, which takes seconds."""
        database = _database(self.tracking_uri)
        return database is not None and not database.exists()

    def _connected(self) -> MlflowClient:
        """Return a client on an initialised store, with the experiment in place.

        Two processes on a fresh SQLite file crash in MLflow's migration, so the first contact is under a file lock;
        one that is killed in it leaves no database.
        """
        if self._client is None:
            from mlflow import MlflowClient

            with _first_contact(self.tracking_uri):
                client = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
                if client.get_experiment_by_name(self.experiment) is None:
                    client.create_experiment(self.experiment, artifact_location=self.artifact_location)
            self._client = client
        return self._client

    @contextmanager
    def _fluent(self) -> Iterator[None]:
        """Point MLflow's module functions at this store, and back."""
        import mlflow

        before = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
        mlflow.set_tracking_uri(self.tracking_uri)
        mlflow.set_registry_uri(self.tracking_uri)
        try:
            yield
        finally:
            mlflow.set_tracking_uri(before[0])
            mlflow.set_registry_uri(before[1])


def _is_of_mlflow(error: Exception) -> bool:
    """Whether MLflow, its server, its database or its disk raised the error."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | OSError)


def _database(tracking_uri: str) -> Path | None:
    """The SQLite file of a registry; None of a server."""
    return Path(tracking_uri.removeprefix(_SQLITE)) if tracking_uri.startswith(_SQLITE) else None


@contextmanager
def _first_contact(tracking_uri: str) -> Iterator[None]:
    database = _database(tracking_uri)
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f"{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not database.exists():
            with _migrating:
                _make(database)
        yield


# Alembic keeps what it migrates in globals of the process, and a thread whose question missed its deadline goes on.
_migrating: Final = threading.Lock()


def _make(database: Path) -> None:
    """Make MLflow's tables beside the file and put it there whole: on half of them MLflow fails for ever."""
    mlflow_db: Any = import_module("mlflow.store.db.utils")
    new = database.with_name(f"{database.name}.new")
    for left in (new, new.with_name(f"{new.name}-journal")):
        left.unlink(missing_ok=True)
    engine = mlflow_db.create_sqlalchemy_engine(f"{_SQLITE}{new}")
    mlflow_db._initialize_tables(engine)
    engine.dispose()
    new.replace(database)


_TARGET_COLUMN: Final = {
    "name": TARGET, "unit": TARGET_UNIT, "description": "Energy of one device over one full hour."
}  # fmt: skip


class _Flavor:
    """MLflow's flavor of scikit-learn, which is loaded as ever.

    Only the trial of the example on a loaded copy is left out: `cards` has asked the model by then, and a version is
    read back through `stored.py` alone.
    """

    # The name that MLflow notes with the model.
    __name__ = "mlflow.sklearn"

    @staticmethod
    def save_model(*, validate_serving_input: bool, **options: Any) -> None:
        """Save by the flavor; it takes no such option, `Model.log` does."""
        import mlflow

        assert not validate_serving_input
        mlflow.sklearn.save_model(**options)


def _log_model(name: str, release: Release) -> Any:
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    # MLflow refuses 64-bit integers where a double is asked for; the model takes any number, and what is missing.
    anything: Any = AnyType
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec("string" if column["category"] else anything(), column["name"]) for column in release.columns
    ]
    outputs: list[ColSpec | TensorSpec] = [ColSpec("double", name) for name in release.outputs]
    return Model.log(
        artifact_path=None,
        name=name,
        flavor=_Flavor(),
        metadata={"columns": list(release.columns), "target": json.dumps(dict(release.target))},
        validate_serving_input=False,
        sk_model=release.estimator,
        serialization_format="skops",
        skops_trusted_types=list(TRUSTED),
        signature=ModelSignature(Schema(inputs), Schema(outputs)),
        input_example=release.example,
        # Given here, MLflow need not start a second interpreter to find out what a forest imports.
        pip_requirements=_requirements(),
    )


def _description(trained: Trained) -> str:
    tested = [row for row in trained.errors if row.model not in ON_NEWER_HOURS]
    kept = "" if trained.refused_choice is None else f" It {trained.decision}."
    return (
        f"{trained.name}, fitted on all hours until {trained.test_until:%Y-%m-%d}.{kept} "
        f"CV(RMSE) on the {trained.test_rows:,} hours from {trained.cut_time:%Y-%m-%d} to "
        f"{trained.test_until:%Y-%m-%d}, which none of them had learned: {in_a_sentence(tested)}. "
        "`model` is this version as it was before it learned them; errors.json and model_card.md of its run say more."
    )


def _what_it_is(release: Release) -> str:
    takes = ", ".join(f"{column['name']} ({column['unit'] or 'text'})" for column in release.columns)
    return (
        f"{release.target['description']} Takes {takes}; a number may be an integer or missing. Returns "
        f"{', '.join(release.outputs)}, kWh. columns.json of a run describes each."
    )


def with_limits(
    columns: tuple[dict[str, Any], ...], within: Mapping[str, tuple[float, float]]
) -> tuple[dict[str, Any], ...]:
    """Return the columns with `lowest` and `highest`: beyond these an input lies far outside of what was learnt."""
    return tuple(
        column
        if column["name"] not in within
        else column | dict(zip(("lowest", "highest"), within[column["name"]], strict=True))
        for column in columns
    )


def _data_set(tags: Mapping[str, str]) -> Any:
    """Return what was learnt from, by versions of tables and its hash; where it lies is the site's own matter."""
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    kept = {
        name: tags[name] for name in ("delta_versions", "lake", "code_version", "train_from") if name in tags
    }
    digest = tags.get("training_table_sha256", tags.get("training_key", ""))[:36]
    found: Any = MetaDataset
    return found(CodeDatasetSource(kept), name="training table", digest=digest or None)


def _onnx(cards: Cards) -> str:
    return "exported" if cards.onnx.data is not None else cards.onnx.reason


def _log_graph(data: bytes) -> None:
    import mlflow

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.onnx"
        graph.write_bytes(data)
        mlflow.log_artifact(str(graph), "export")


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{package}=={version(package)}" for package in ("numpy", "pandas", "scikit-learn", "skops")]


def _metrics(trained: Trained) -> dict[str, float]:
    """Return metrics by `<model>.<hours>.<figure>` over all nodes; the errors of each node stand in errors.json."""
    found = {
        f"{row.model}.{row.hours}.{name}": value
        for row in trained.errors
        if row.node_id == ALL_NODES
        for name in ("mape_ratio", "wape_ratio", "cv_rmse_ratio", "nmbe_ratio", "mae_kwh")
        if (value := getattr(row.errors, name)) is not None
    }
    counts = {"train_rows": trained.train_rows, "test_rows": trained.test_rows}
    costs = {
        "training_cpu_s": trained.training_cost.cpu_s, "training_energy_j": trained.training_cost.energy_j,
        "million_predictions_cpu_s": trained.per_million.cpu_s,
        "million_predictions_energy_j": trained.per_million.energy_j,
        "million_means_energy_j": trained.means_per_million.energy_j,
    }  # fmt: skip
    validated = {
        f"validation.{name}.cv_rmse_ratio": cv for name, cv in trained.selected.choice.cv_rmse_ratio.items()
    }
    slimmed = trained.selected.slimmed
    sizes = {
        f"slim.{one.name.replace(':', '')}.{figure}": float(value)
        for one in (slimmed.variants if slimmed else ())
        for figure, value in (
            ("cv_rmse_ratio", one.cv_rmse_ratio), ("size_bytes", one.size_bytes),
            ("million_predictions_energy_j", one.million.energy_j),
        )
    }  # fmt: skip
    return found | counts | costs | validated | sizes


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def back_to_better(
    registry: Registry, champion: VerifiedModel, newest: pd.DataFrame, trained: Trained, gates: GateSettings
) -> tuple[str, ...]:
    """Move the alias back where the champion misses the gate's CV(RMSE) on newer hours; what was done, in words.

    `newest` are the hours that the champion has not learnt, in which its errors in `trained` stand; earlier versions
    have not learnt them either. Nothing is done where these are too few to judge by, or where the challenger was
    promoted, it replaced the champion; or where the test is older than the champion's own, a back-fill of old days says
    nothing against it.
    """
    name, present = champion.version.name, champion.version
    now, limit = overall(trained.errors, CHAMPION).cv_rmse_ratio, gates.cv_rmse_max_ratio
    older = trained.test_until.isoformat() < present.tags.get("test_until", "")
    few = len(newest) < gates.min_test_rows
    if trained.verdict.promoted or older or few or now is None or now <= limit:
        return ()
    notes = []
    measured = newest[TARGET].to_numpy(dtype=float)
    earlier = [
        one for one in registry.versions(name)
        if one.tags.get("promotion") == PROMOTED and int(one.version) < int(present.version)
    ]  # fmt: skip
    for one in sorted(earlier, key=lambda one: -int(one.version)):
        try:
            model = registry.verified_model(name, version=one.version)
        except ModelError as error:
            notes.append(f"version {one.version} not considered for a rollback: {error}")
            continue
        before = errors(measured, model.predict(newest)).cv_rmse_ratio
        if before is not None and before <= limit:
            reason = f"CV(RMSE) {now:.1%} on the newest days, version {one.version} has {before:.1%}"
            registry.roll_back(name, one.version, reason)
            return (*notes, f"rolled back to version {one.version}: {reason}")
    return (
        *notes,
        f"the champion's CV(RMSE) is {now:.1%} on the newest days, and no earlier version does better",
    )


def load_champion(tracking_uri: str, name: str, alias: str = CHAMPION_ALIAS) -> VerifiedModel:
    """Return the verified model behind `models:/<name>@<alias>`."""
    return Registry(tracking_uri).verified_model(name, alias)


def read_rows(source: Path) -> pd.DataFrame:
    """Return rows of a CSV file, a Parquet file or a Delta table's folder."""
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
    """Return the rows with OUTPUTS, `model_name` and `model_version`."""
    ends = dict(zip(OUTPUTS, model.intervals(rows).T, strict=True))
    return rows.assign(**ends, model_name=model.version.name, model_version=model.version.version)
