"""The registry for a person at a terminal: which versions there are, which one is champion, why."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lepton_etl.models.registry import FACILITY_PREFIX, Registry
from lepton_etl.models.verified import FORWARD_ERROR_TAG
from lepton_etl.settings import Settings

_WIDTH = 200


def print_versions(settings: Settings) -> None:
    """Each version of the site's models with alias, decision, reason and cards; raises ModelError for a bad name."""
    mlflow, own = settings.mlflow, settings.model.name
    registry, console = Registry.of(mlflow), Console(width=max(Console().width, _WIDTH))
    # A name that is not registered yet is shown as such; a bad one is refused there.
    for name in dict.fromkeys((own, *registry.names((own, FACILITY_PREFIX)))):
        console.print(_table(registry, name, _without_credentials(mlflow.tracking_uri)))


def _table(registry: Registry, name: str, where: str) -> Table:
    champion = registry.champion(name)
    shown = Table(title=f"{name} at {where}", title_justify="left")
    for heading in (
        "version", "alias", "promotion", "reason", "chosen", "CV(RMSE)", "trained until", "ONNX", "cards",
        "model SHA-256",
    ):  # fmt: skip
        shown.add_column(heading)
    for version in sorted(registry.versions(name), key=lambda v: int(v.version)):
        tags = version.tags
        shown.add_row(
            version.version,
            "champion" if champion and champion.version == version.version else "",
            tags.get("promotion", "-"),
            tags.get("promotion_reason", "-"),
            tags.get("chosen", "-"),
            _percent(tags.get(FORWARD_ERROR_TAG)),
            tags.get("cut_time", "-")[:10],
            "yes" if tags.get("onnx") == "exported" else "no",
            f"runs:/{version.run_id}" if "onnx" in tags else "-",
            tags.get("model_sha256", "-")[:12],
        )
    return shown


def _percent(ratio: str | None) -> str:
    return "-" if ratio is None else f"{float(ratio):.1%}"


def _without_credentials(uri: str) -> str:
    scheme, found, rest = uri.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"
