"""Object stores by URI, with the credentials that Spark's own s3a connector uses.

Source: Hadoop-AWS module, fs.s3a options and their per-bucket form fs.s3a.bucket.NAME.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from pyarrow import fs
from pyspark.sql import SparkSession

REMOTE_SCHEMES: Final = ("s3", "s3a", "hdfs")
_OPTIONS: Final = (
    "access.key", "secret.key", "session.token", "endpoint", "endpoint.region", "connection.ssl.enabled",
    "aws.credentials.provider",
)  # fmt: skip
_SECRET: Final = ("access.key", "secret.key", "session.token")


def is_remote(path: str) -> bool:
    """Whether a path is a URI of an object store or HDFS."""
    return path.partition("://")[0] in REMOTE_SCHEMES and "://" in path


@dataclass(frozen=True)
class ObjectStore:
    """Options of s3a by bucket ('' for all); plain data, so that executors get them with their task."""

    s3a: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, spark: SparkSession, uris: tuple[str, ...]) -> ObjectStore:
        """What this session's Hadoop configuration says about the buckets of these URIs."""
        buckets = sorted({urlsplit(uri).netloc for uri in uris if uri.startswith(("s3://", "s3a://"))})
        if not buckets:
            return cls()
        # The public conf holds only what was set for this session, not the cluster's core-site.xml.
        hadoop: Any = spark.sparkContext._jsc.hadoopConfiguration()
        found = {}
        for bucket in buckets:
            options = {}
            for name in _OPTIONS:
                for key in (f"fs.s3a.bucket.{bucket}.{name}", f"fs.s3a.{name}"):
                    value = _password(hadoop, key) if name in _SECRET else hadoop.get(key)
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


def _password(hadoop: Any, key: str) -> str | None:
    """A secret option; it may stand in a Hadoop credential store instead of the configuration."""
    found = hadoop.getPassword(key)
    return None if found is None else "".join(found)


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
