"""Where a lake lies: a folder of this machine, or a prefix of an S3 bucket, behind one value that tasks can carry.

delta-rs, polars and obstore are three faces of one library (object_store), so one set of options opens tables, data
files and leases alike, and with it comes what pyarrow's and fsspec's file systems lack: a write that succeeds only
where nothing, or exactly what was read, stands. Commits and leases rest on that.
A folder is read and written by its plain path: a staged file is renamed within it and never copied.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import obstore
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, S3Store
from pyarrow import fs

from lepton_etl.errors import ConfigurationError
from lepton_etl.file_modes import inherit_umask, set_umask

if TYPE_CHECKING:
    from lepton_etl.config.settings import Settings

# The settings' names of section `storage` in object_store's words.
_OPTIONS: Final = {
    "endpoint": "aws_endpoint",
    "region": "aws_region",
    "access_key": "aws_access_key_id",
    "secret_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
}
# delta-rs commits by `If-None-Match`, and not by a copy that overwrites what another run committed meanwhile.
_SAFE: Final = {"aws_conditional_put": "etag"}
# What delta-rs and polars take and obstore has another word for.
_NOT_OF_OBSTORE: Final = ("aws_conditional_put", "aws_allow_http")


@dataclass(frozen=True, slots=True)
class Location:
    """A folder or file by its path, or by its URI with the options that open the object store."""

    uri: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)

    @classmethod
    def of(cls, place: Location | Path | str) -> Location:
        """Return the location of a path; a location is returned as it is."""
        return place if isinstance(place, Location) else cls(os.fspath(place))

    @classmethod
    def of_lake(cls, settings: Settings) -> Location:
        """Return the root of the lake that the settings name; from now on files get the rights that they leave."""
        set_umask(settings.lake.umask)
        root, storage = settings.lake.root, settings.storage
        if "://" not in root:
            return cls(root)
        named = {_OPTIONS[name]: value for name, value in storage.named().items()}
        plain = {"aws_allow_http": "true"} if (storage.endpoint or "").startswith("http://") else {}
        return cls(root.rstrip("/"), named | plain | _SAFE)

    def __truediv__(self, name: str) -> Location:
        return Location(f"{self.uri}/{name}", self.options)

    def __str__(self) -> str:
        return self.uri

    @property
    def is_local(self) -> bool:
        return "://" not in self.uri

    @property
    def storage_options(self) -> dict[str, str] | None:
        """The options as delta-rs and polars take them; None for a folder."""
        return dict(self.options) or None

    def is_table(self) -> bool:
        """Return whether a Delta table stands here."""
        return DeltaTable.is_deltatable(self.uri, self.storage_options)

    def prepare(self) -> None:
        """Make the folder, or try the store: that it can be written, and refuses a second write of the same name.

        Raises ConfigurationError naming lake.root: without that refusal two runs would overwrite each other's commits.
        """
        try:
            if self.is_local:
                Path(self.uri).mkdir(parents=True, exist_ok=True)
                return
            probe = self / f"_probe-{uuid.uuid4().hex}"
            try:
                is_safe = probe.create(b"") is not None and probe.create(b"") is None
            finally:
                probe.remove()
        except (OSError, BaseError) as error:
            why = getattr(error, "strerror", None) or _first_line(error)
            raise self._unusable(f"cannot be made: {why}", "choose a place that the user of the night may write"
                                 ) from error  # fmt: skip
        if not is_safe:
            what = "the store overwrites where it is told to create (If-None-Match)"
            raise self._unusable(
                what, "take a store with conditional writes; without them commits can be lost"
            )

    def _unusable(self, what: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"key lake.root = {self.uri!r}: {what}", where="settings", remedy=remedy)

    def exists(self) -> bool:
        """Return whether a file stands here."""
        return self.modified() is not None

    def modified(self) -> datetime | None:
        """Return when the file was written, by the clock of its store; None where there is none."""
        try:
            store, key = self._store()
            return obstore.head(store, key)["last_modified"]
        except FileNotFoundError:
            return None

    def size_bytes(self) -> int:
        """Return the size of the file, 0 where there is none."""
        try:
            store, key = self._store()
            return obstore.head(store, key)["size"]
        except FileNotFoundError:
            return 0

    def names(self) -> list[str]:
        """Return the names of the files of this folder, sorted; none where it does not exist."""
        if self.is_local:
            folder = Path(self.uri)
            return sorted(one.name for one in folder.iterdir() if one.is_file()) if folder.is_dir() else []
        store, key = self._store()
        found = obstore.list_with_delimiter(store, f"{key}/")
        return sorted(one["path"].rpartition("/")[2] for one in found["objects"])

    def holds_files(self, ending: str) -> bool:
        """Return whether a file with this ending lies anywhere below this folder."""
        if self.is_local:
            return next(Path(self.uri).rglob(f"*{ending}"), None) is not None
        store, key = self._store()
        return any(one["path"].endswith(ending) for part in obstore.list(store, f"{key}/") for one in part)

    def read(self) -> tuple[bytes, str]:
        """Return the content of the file and its tag. Raises FileNotFoundError."""
        store, key = self._store()
        found = obstore.get(store, key)
        return bytes(found.bytes()), found.meta["e_tag"] or ""

    def write(self, content: bytes) -> None:
        """Put the file in place of the one that may stand here; a crash leaves either."""
        store, key = self._store(make=True)
        obstore.put(store, key, content)

    def create(self, content: bytes) -> str | None:
        """Write the file where none stands, whole or not at all; its tag, or None where one stands."""
        store, key = self._store(make=True)
        try:
            return obstore.put(store, key, content, mode="create", use_multipart=False)["e_tag"] or ""
        except AlreadyExistsError:
            return None

    def update(self, content: bytes, tag: str) -> str | None:
        """Write the file in place of the one with this tag; the new tag, or None where another stands by now."""
        store, key = self._store()
        try:
            return obstore.put(store, key, content, mode={"e_tag": tag}, use_multipart=False)["e_tag"] or ""
        except (PreconditionError, FileNotFoundError):
            return None

    def remove(self) -> None:
        """Remove the file; one that is gone is no error."""
        try:
            store, key = self._store()
            obstore.delete(store, key)
        except FileNotFoundError:
            pass

    def workspace(self) -> Path:
        """Return the folder of this machine in which a file for this place is written first: itself where it is one."""
        if not self.is_local:
            return Path(tempfile.gettempdir())
        # Tasks write here first.
        inherit_umask()
        folder = Path(self.uri)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def take(self, file: Path, name: str) -> None:
        """Move a file from the workspace to this place."""
        if self.is_local:
            shutil.move(file, Path(self.uri) / name)
            return
        store, key = self._store()
        obstore.put(store, f"{key}/{name}", file)
        file.unlink()

    def source(self) -> Any:
        """Return what pyarrow opens to read this file: its path, or a reader of the object."""
        if self.is_local:
            return self.uri
        folder, _, name = self.uri.rpartition("/")
        return fs.PyFileSystem(DeltaStorageHandler(folder, dict(self.options))).open_input_file(name)

    def _store(self, *, make: bool = False) -> tuple[LocalStore | S3Store, str]:
        """The store and the name of this file within it."""
        if self.is_local:
            path = Path(self.uri)
            return LocalStore(path.parent, mkdir=make) if make or path.parent.is_dir() else _absent(
                path
            ), path.name
        parts = urlsplit(self.uri)
        return _s3(parts.netloc, tuple(sorted(self.options.items()))), parts.path.strip("/")


def _absent(path: Path) -> LocalStore:
    raise FileNotFoundError(str(path))


@lru_cache(maxsize=8)
def _s3(bucket: str, options: tuple[tuple[str, str], ...]) -> S3Store:
    config: Any = {name: value for name, value in options if name not in _NOT_OF_OBSTORE}
    return S3Store(
        bucket, config=config, client_options={"allow_http": ("aws_allow_http", "true") in options}
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
