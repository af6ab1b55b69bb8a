"""The sealed map: which name each pseudonym stands for, encrypted beside the tables by a key that lies elsewhere.

`<lake.root>/_people/map.sealed` holds all names under AES-256-GCM. The key is LEPTON_PEOPLE_SECRET of the environment,
else a file that its owner alone may read (`privacy.key_file`, by default `<lake.root>.people-key` beside the folder of
the lake), which the first name makes. Who has tables and map but not the key learns no name; who has the key and not
the map neither. One writer at a time, under the lake's lease `people`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lepton_etl.errors import ConfigurationError, LakeError
from lepton_etl.lake.lease import Lease
from lepton_etl.schema.privacy import PSEUDONYM
from lepton_etl.trust.keys import WHAT_IT_IS, key_of, new_key, read_key, write_key
from lepton_etl.trust.pseudonyms import (
    PERSON,
    Name,
    Pseudonyms,
    forms,
    renamed,
    seal,
    unseal,
)

if TYPE_CHECKING:
    from lepton_etl.config.sections import PrivacySettings
    from lepton_etl.config.settings import Settings
    from lepton_etl.lake.location import Location
    from lepton_etl.lake.tables import Lake

# The name of a variable, no secret.
SECRET: Final = "LEPTON_PEOPLE_SECRET"  # noqa: S105
_PURPOSE: Final = "lepton-etl people 1"
_LEASE: Final = "people"
_WAIT_S: Final = 60.0


@dataclass(frozen=True)
class People:
    """The people of one lake, by their sealed map."""

    lake: Lake
    key_file: Path | None
    run_id: str = "people"
    expected: bool = False
    """Whether a source may name people: then there must be a place for a key."""

    @classmethod
    def of(cls, lake: Lake, settings: Settings, run_id: str = "people") -> People:
        """Return the people of the settings' lake."""
        file = settings.privacy.key_file
        if file is None and lake.root.is_local:
            file = Path(f"{lake.root.uri}.people-key")
        expected = any("jobs" in source.subjects for source in settings.all_sources)
        return cls(lake, file, run_id, expected)

    def check(self) -> None:
        """Raise ConfigurationError where the key is no key, others may read it, or it does not open the map."""
        if self._key() is None and self.key_file is None and self.expected:
            raise self._without_key()
        self.names()

    def names(self) -> dict[Name, str]:
        """Return name -> pseudonym that new rows get; empty where there is no map. Raises ConfigurationError."""
        found: dict[Name, str] = {}
        for name, pseudonym in self._rows():
            found.setdefault(name, pseudonym)
        return found

    def name_of(self) -> dict[str, str]:
        """Return pseudonym -> name, of all that were ever given and not forgotten."""
        return {pseudonym: name for (_, name), pseudonym in self._rows()}

    def named(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return rows with the name in place of each pseudonym that the map knows, in every text."""
        names = self.name_of()

        def resolved(value: Any) -> Any:
            return (
                PSEUDONYM.sub(lambda one: names.get(one[0], one[0]), value)
                if isinstance(value, str)
                else value
            )

        return [{key: resolved(value) for key, value in row.items()} for row in rows]

    def hidden(self, text: str) -> str:
        """Return a text with the pseudonym in place of each name that the map knows, where it stands as a word."""
        return renamed({name: pseudonym for (_, name), pseudonym in self.names().items()})(text)

    def for_tasks(self, settings: PrivacySettings) -> Pseudonyms:
        """Return what the tasks of a new batch give pseudonyms by."""
        tenants = settings.tenants == "pseudonyms"
        return Pseudonyms.of(self.names(), tenants=tenants, pod_user=settings.pod_user)

    def add(self, names: Mapping[Name, str]) -> None:
        """Take new names up. A name that came in by another way meanwhile keeps both pseudonyms; the first goes on."""
        if not names:
            return
        with self._writing():
            rows = self._rows()
            known = set(rows)
            self._write(rows + [row for row in names.items() if row not in known], self._key(make=True))

    def pseudonym(self, name: str) -> str:
        """Return the pseudonym of a person, a new one where the map has none."""
        if (PERSON, name) not in self.names():
            self.add({(PERSON, name): Pseudonyms.of({}, tenants=False).drawn((PERSON, name))})
        return self.names()[PERSON, name]

    def forget(self, name: str) -> list[str]:
        """Take a person's or tenant's name out, and its forms in pods; the pseudonyms that lead to nobody now."""
        written = forms(name)

        def is_theirs(kind: str, known: str) -> bool:
            # What a pod was called may go on behind the name: ann--server.
            return known == name or (
                kind == PERSON and not written.isdisjoint({known, known.partition("--")[0]})
            )

        with self._writing():
            rows = self._rows()
            gone = [pseudonym for known, pseudonym in rows if is_theirs(*known)]
            if gone:
                self._write([row for row in rows if not is_theirs(*row[0])], self._key())
        return gone

    def rotate(self, fresh: bytes | None = None) -> Path | None:
        """Seal the map by a new key, drawn where none is given; the key file that was written, None of the environment.

        Raises ConfigurationError where the key comes from the environment and no new one is given.
        """
        from_environment = bool(os.environ.get(SECRET))
        if from_environment and fresh is None:
            raise ConfigurationError(
                f"the key is that of {SECRET}, and no new one is given", where="privacy rotate",
                remedy="name its variable by --new-key-from, and set it as " + SECRET + " afterwards",
            )  # fmt: skip
        with self._writing():
            rows, key = self._rows(), fresh or new_key()
            if from_environment or self.key_file is None:
                self._write(rows, key)
                return None
            # Both keys lie there until the map is whole under the new one: a kill in between loses neither.
            waiting = self.key_file.with_name(f"{self.key_file.name}.new")
            waiting.unlink(missing_ok=True)
            write_key(waiting, key)
            self._write(rows, key)
            waiting.replace(self.key_file)
            return self.key_file

    @property
    def _map(self) -> Location:
        return self.lake.root / "_people" / "map.sealed"

    def _writing(self) -> Lease:
        return Lease(self.lake, _LEASE, self.run_id, wait_s=_WAIT_S)

    def _rows(self) -> list[tuple[Name, str]]:
        try:
            sealed = self._map.read()[0]
        except FileNotFoundError:
            return []
        key = self._key()
        if key is None:
            raise ConfigurationError(
                "the map of people is there, and not its key", where=str(self._map),
                remedy=f"set {SECRET}, or put the key back at {self.key_file or 'privacy.key_file'}",
            )  # fmt: skip
        for one in (key, self._waiting()):
            if one is None:
                continue
            try:
                rows = json.loads(unseal(one, sealed, _PURPOSE))
            except ValueError:
                continue
            return [((kind, name), pseudonym) for kind, name, pseudonym in rows]
        raise ConfigurationError(
            "the key does not open the map of people: it is another lake's, or the map was changed",
            where=str(self._map), remedy="give the key that the map was sealed by, or restore the map from a copy",
        )  # fmt: skip

    def _write(self, rows: list[tuple[Name, str]], key: bytes | None) -> None:
        if key is None:
            raise LakeError("there is no key to seal the map of people by", where=str(self._map))
        text = json.dumps([[*name, pseudonym] for name, pseudonym in rows], ensure_ascii=False).encode()
        self._map.write(seal(key, text, _PURPOSE))

    def _waiting(self) -> bytes | None:
        """The new key of a rotation that was killed before it was done."""
        if self.key_file is None or os.environ.get(SECRET):
            return None
        waiting = self.key_file.with_name(f"{self.key_file.name}.new")
        return read_key(waiting) if waiting.exists() else None

    def _without_key(self) -> ConfigurationError:
        return ConfigurationError(
            "job accounting names people, and there is no key to keep their names by", where="privacy.key_file",
            remedy=f"set {SECRET} ({WHAT_IT_IS}), or privacy.key_file; a lake in a bucket has no default",
        )  # fmt: skip

    def _key(self, *, make: bool = False) -> bytes | None:
        """The key, None where there is none yet; `make` draws one then. Raises ConfigurationError."""
        text = os.environ.get(SECRET)
        if text:
            return key_of(text, f"environment variable {SECRET}")
        if self.key_file is None:
            if not make:
                return None
            raise self._without_key()
        if not self.key_file.exists():
            if not make:
                return None
            write_key(self.key_file, new_key())
        return read_key(self.key_file)


def word_of(name: str) -> re.Pattern[str]:
    """Return what finds a name, however a text may write it, where it stands as words of its own."""
    words = "|".join(map(re.escape, sorted(forms(name), key=len, reverse=True)))
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)")
