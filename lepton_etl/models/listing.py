"""The registry for a person at a terminal: which versions there are, which one is champion, why."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from lepton_etl.models.registry import Registry
from lepton_etl.settings import Settings

_WIDTH = 140


def print_versions(settings: Settings) -> None:
    """Each version of the site's model with alias, decision and reason; raises ModelError for a bad name."""
    mlflow, name = settings.mlflow, settings.model.name
    registry = Registry(mlflow.tracking_uri, mlflow.artifact_location, mlflow.experiment)
    champion = registry.champion(name)
    shown = Table(title=f"{name} at {_without_credentials(mlflow.tracking_uri)}", title_justify="left")
    for heading in ("version", "alias", "promotion", "reason", "trained until", "model SHA-256"):
        shown.add_column(heading)
    for version in sorted(registry.versions(name), key=lambda v: int(v.version)):
        tags = version.tags
        shown.add_row(
            version.version,
            "champion" if champion and champion.version == version.version else "",
            tags.get("promotion", "-"),
            tags.get("promotion_reason", "-"),
            tags.get("cut_time", "-")[:10],
            tags.get("model_sha256", "-")[:12],
        )
    Console(width=max(Console().width, _WIDTH)).print(shown)


def _without_credentials(uri: str) -> str:
    scheme, found, rest = uri.partition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"
