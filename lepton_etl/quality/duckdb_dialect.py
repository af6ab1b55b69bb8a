"""Open a DuckDB file through SQLAlchemy, for reading only: what Great Expectations' SQL engine asks of it.

`duckdb+lepton:///<file>` in a connection string; registered as an entry point (setup.cfg), so that plain Great
Expectations opens the gate's context. The dialect duckdb-engine is no choice: built on PostgreSQL's, its cursor loses
its rows at a commit, and Great Expectations then finds none (its issue 10738).
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection
from sqlalchemy.engine.default import DefaultDialect

# The types that the field dictionary has; what else a query gives needs no name.
_TYPES: Final[dict[str, type[sa.types.TypeEngine[Any]]]] = {
    "VARCHAR": sa.String,
    "DOUBLE": sa.Double,
    "INTEGER": sa.Integer,
    "BIGINT": sa.BigInteger,
    "BOOLEAN": sa.Boolean,
    "DATE": sa.Date,
    "TIMESTAMP WITH TIME ZONE": sa.TIMESTAMP,
}
# A query reads the file and nothing else of this machine, whatever it says. Time zones need an extension, which is
# loaded before the door is shut.
_SHUT: Final = (
    "SET GLOBAL TimeZone = 'UTC'", "SET GLOBAL enable_external_access = false", "SET GLOBAL lock_configuration = true",
)  # fmt: skip


class DuckDB(DefaultDialect):
    """A DuckDB file, read-only, in UTC, without access to other files or the network."""

    name = "duckdb"
    driver = "lepton"
    supports_statement_cache = False
    default_paramstyle = "qmark"

    @classmethod
    def import_dbapi(cls) -> Any:
        import duckdb

        return duckdb

    def create_connect_args(self, url: URL) -> tuple[list[str], dict[str, Any]]:
        return [url.database or ""], {"read_only": True}

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Open a connection; those of a process share the file's instance, which is shut once."""
        connection = super().connect(*cargs, **cparams)
        if not connection.execute("SELECT current_setting('lock_configuration')").fetchall()[0][0]:
            for statement in _SHUT:
                connection.execute(statement)
        return connection

    def do_commit(self, dbapi_connection: Any) -> None:
        """Do nothing: nothing is written, and a cursor of DuckDB stands outside of its connection's transaction."""

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Do nothing, as at a commit."""

    def _get_default_schema_name(self, connection: Connection) -> str:
        return "main"

    def get_schema_names(self, connection: Connection, **kw: Any) -> list[str]:
        found = connection.execute(
            sa.text("SELECT DISTINCT schema_name FROM duckdb_columns() WHERE NOT internal")
        )
        return [name for (name,) in found]

    def get_table_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:
        return self._names(connection, schema, "BASE TABLE")

    def get_view_names(self, connection: Connection, schema: str | None = None, **kw: Any) -> list[str]:
        return self._names(connection, schema, "VIEW")

    def has_table(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> bool:
        return bool(self.get_columns(connection, table_name, schema))

    def get_columns(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> list[Any]:
        asked = sa.text(
            "SELECT column_name, data_type, is_nullable FROM duckdb_columns() "
            "WHERE schema_name = :schema AND table_name = :name ORDER BY column_index"
        )
        found = connection.execute(asked, {"schema": schema or "main", "name": table_name})
        return [
            {
                "name": name,
                "type": _TYPES.get(kind, sa.types.NullType)(),
                "nullable": nullable,
                "default": None,
            }
            for name, kind, nullable in found
        ]

    def get_pk_constraint(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> Any:
        return {"constrained_columns": [], "name": None}

    def _names(self, connection: Connection, schema: str | None, kind: str) -> list[str]:
        asked = sa.text(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = :schema AND table_type = :kind"
        )
        return [name for (name,) in connection.execute(asked, {"schema": schema or "main", "kind": kind})]
