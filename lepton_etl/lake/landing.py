"""List the files that were delivered, and open them in one way on local disk, S3 or HDFS.

A pattern's part before its first wildcard is its root. What leaves a local root by a symbolic link, or is no
regular file (a device, a pipe), is named and not opened. Tasks open files themselves through pyarrow, so a
file may be of any size and nothing of it passes through the JVM. Object stores are opened with the options
and credentials of Spark's own s3a connector.
Source: Hadoop-AWS module, fs.s3a options and their per-bucket form fs.s3a.bucket.NAME.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import urlsplit

from pyarrow import fs

from lepton_etl.config.settings import Settings
from lepton_etl.config.sources import Source
from lepton_etl.errors import ConfigurationError

REMOTE_SCHEMES: Final = ("s3", "s3a", "hdfs")
_OPTIONS: Final = (
    "access.key", "secret.key", "session.token", "endpoint", "endpoint.region", "connection.ssl.enabled",
    "aws.credentials.provider",
)  # fmt: skip


def is_remote(path: str) -> bool:
    """Whether a path is a URI of an object store or HDFS."""
    return path.partition("://")[0] in REMOTE_SCHEMES and "://" in path


@dataclass(frozen=True)
class ObjectStore:
    """Options of s3a by bucket ('' for all); plain data, so that executors get them with their task."""

    s3a: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, option: Callable[[str], str | None], uris: tuple[str, ...]) -> ObjectStore:
        """What the Hadoop options, asked for by name, say about the buckets of these URIs."""
        buckets = sorted({urlsplit(uri).netloc for uri in uris if uri.startswith(("s3://", "s3a://"))})
        if not buckets:
            return cls()
        found = {}
        for bucket in buckets:
            options = {}
            for name in _OPTIONS:
                for key in (f"fs.s3a.bucket.{bucket}.{name}", f"fs.s3a.{name}"):
                    value = option(key)
                    if value:
                        options[name] = value
                        break
            found[bucket] = options
        return cls(found)

    def open(self, uri: str) -> tuple[fs.FileSystem, str]:
        """The file system of a URI and the path within it. Raises OSError where there is none."""
        parts = urlsplit(uri)
        if parts.scheme == "hdfs":
            # libhdfs and its class path are the cluster's.
            system, path = fs.FileSystem.from_uri(uri)
            return system, path
        return _s3(self.s3a.get(parts.netloc, {})), f"{parts.netloc}{parts.path}"


def _s3(options: Mapping[str, str]) -> fs.S3FileSystem:
    """pyarrow's S3 by s3a's options; without keys both ask the environment and the machine's role."""
    chosen: dict[str, Any] = {}
    if "AnonymousAWSCredentialsProvider" in options.get("aws.credentials.provider", ""):
        chosen["anonymous"] = True
    elif "access.key" in options:
        chosen |= {"access_key": options["access.key"], "secret_key": options.get("secret.key")}
        if "session.token" in options:
            chosen["session_token"] = options["session.token"]
    if "endpoint" in options:
        scheme, _, host = options["endpoint"].rpartition("://")
        secure = options.get("connection.ssl.enabled", "true") != "false"
        chosen |= {"endpoint_override": host, "scheme": scheme or ("https" if secure else "http")}
    if "endpoint.region" in options:
        chosen["region"] = options["endpoint.region"]
    return fs.S3FileSystem(**chosen)


UNSAFE: Final = ("symbolic_link", "not_a_regular_file", "outside_landing", "name_not_utf8")
_WILDCARD: Final = re.compile(r"[*?\[]")


class UnsafeFileError(OSError):
    """A file that was regular when it was listed is something else now; its text is the reason, one of UNSAFE."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """One file as the landing folder shows it; `unsafe` says why it must not be opened."""

    source_name: str
    path: str
    size_bytes: int
    modified_time: datetime
    node_id: str | None
    path_time: datetime | None
    unsafe: str | None = None


@dataclass(frozen=True)
class Landing:
    """Lists and opens delivered files; travels to executors."""

    store: ObjectStore = field(default_factory=ObjectStore)

    @classmethod
    def of(cls, settings: Settings) -> Landing:
        """Return the landing folders of the settings, for a command that has no engine."""
        paths = tuple(source.path for source in settings.all_sources)
        return cls(ObjectStore.of(lambda key: settings.spark_options.get(f"spark.hadoop.{key}"), paths))

    def delivered(self, source: Source) -> Iterator[Delivered]:
        """The files of one source, by path. Raises ConfigurationError where the pattern's root cannot be listed."""
        return self._remote(source) if is_remote(source.path) else _local(source)

    @contextmanager
    def open(self, file: Delivered, source: Source) -> Iterator[BinaryIO]:
        """The file as it was when it was listed: what has grown behind it since is left to the next run.

        Raises OSError where it cannot be opened, UnsafeFileError where another kind of file has taken its place.
        """
        if is_remote(file.path):
            system, path = self.store.open(file.path)
            with system.open_input_stream(path, compression=None) as stream:
                yield cast("BinaryIO", _Head(cast("BinaryIO", stream), file.size_bytes))
        else:
            with _opened_once(file.path, Path(pattern_root(source.path))) as handle:
                yield cast("BinaryIO", _Head(handle, file.size_bytes))

    def _remote(self, source: Source) -> Iterator[Delivered]:
        """Objects below a URI; a store has no links and no devices."""
        root = pattern_root(source.path)
        fits = _glob_pattern(source.path)
        try:
            system, path = self.store.open(root)
            prefix = root.removesuffix(path)
            selector = fs.FileSelector(path.rstrip("/"), recursive="/" in source.path.removeprefix(root))
            found = [info for info in system.get_file_info(selector) if info.type == fs.FileType.File]
        except OSError as error:
            raise _not_listed(source, root, str(error)) from error
        for info in sorted(found, key=lambda info: info.path):
            uri = prefix + info.path
            if fits.fullmatch(uri) is None:
                continue
            node_id, path_time = identity(source, uri)
            yield Delivered(
                source_name=source.name,
                path=uri,
                size_bytes=info.size,
                modified_time=info.mtime.astimezone(UTC),
                node_id=node_id,
                path_time=path_time,
            )


def _opened_once(path: str, root: Path) -> BinaryIO:
    """Open a file below a folder and judge what was opened, so that nothing can be put in its place in between.

    A link is not followed, and a pipe without a writer is not waited for.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeFileError("symbolic_link") from error
        raise
    handle = os.fdopen(number, "rb")
    if not stat.S_ISREG(os.fstat(number).st_mode):
        handle.close()
        raise UnsafeFileError("not_a_regular_file")
    # Linux says where the open file lies; elsewhere its path is resolved once more.
    place = Path(f"/proc/self/fd/{number}")
    if not (place if place.exists() else Path(path)).resolve().is_relative_to(root.resolve()):
        handle.close()
        raise UnsafeFileError("outside_landing")
    return handle


def _local(source: Source) -> Iterator[Delivered]:
    root = Path(pattern_root(source.path))
    if not os.access(root, os.R_OK | os.X_OK) or not root.is_dir():
        raise _not_listed(source, str(root), "is not a readable folder")
    inside = root.resolve()
    for file in sorted(root.glob(str(Path(source.path).relative_to(root)))):
        # A name that is no text is shown by its bytes; the file is named and not opened.
        path = os.fsencode(file).decode("utf-8", "backslashreplace")
        try:
            info = file.lstat()
        except FileNotFoundError:
            # Rotated away since it was listed.
            continue
        if stat.S_ISDIR(info.st_mode):
            continue
        node_id, path_time = identity(source, path)
        yield Delivered(
            source_name=source.name,
            path=path,
            size_bytes=info.st_size,
            modified_time=datetime.fromtimestamp(info.st_mtime, UTC),
            node_id=node_id,
            path_time=path_time,
            unsafe="name_not_utf8" if path != str(file) else _unsafe(file, info, inside),
        )


def _not_listed(source: Source, root: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"key sources.{source.name}.path = {source.path!r}: {root} {why}",
        where=f"source {source.name}",
        remedy="create the folder or mend the pattern",
    )


def pattern_root(pattern: str) -> str:
    """The folder before the first wildcard of a pattern."""
    fixed = _WILDCARD.split(pattern, maxsplit=1)[0]
    return fixed.rpartition("/")[0] or "/"


def _glob_pattern(pattern: str) -> re.Pattern[str]:
    """A glob over URIs: `*` and `?` stay within a folder, `**/` is any number of folders."""
    parts = re.split(r"(\*\*/|\*|\?)", pattern)
    words = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(part) or re.escape(part) for part in parts))


class _Head:
    """The first bytes of a file."""

    def __init__(self, handle: BinaryIO, size_bytes: int) -> None:
        self._handle = handle
        self._left = size_bytes

    def read(self, size: int = -1) -> bytes:
        found = self._handle.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(found)
        return found


def identity(source: Source, path: str) -> tuple[str | None, datetime | None]:
    """The node and the stamp that a path names, as far as the source says how to read them."""
    return _group(source.node_id_from_path, path, "node_id"), _time(source, path)


def _unsafe(file: Path, info: os.stat_result, inside: Path) -> str | None:
    if stat.S_ISLNK(info.st_mode):
        return "symbolic_link"
    if not stat.S_ISREG(info.st_mode):
        return "not_a_regular_file"
    if not file.resolve().is_relative_to(inside):
        return "outside_landing"
    return None


def _group(pattern: str | None, path: str, group: str) -> str | None:
    found = re.search(pattern, path) if pattern else None
    return found[group] if found else None


def _time(source: Source, path: str) -> datetime | None:
    text = _group(source.time_from_path, path, "time")
    if text is None:
        return None
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        return None
    return stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)
