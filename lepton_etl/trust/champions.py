"""Champions of the model registry in the audit chain: told before the alias moves, and held against it afterwards.

The registry lies beside the lake, whose logs tell nothing of it. So a move is an event first: killed before the event,
nothing has moved; killed after it, the next night finishes the move. An alias that no event knows becomes an event
`unclaimed`, and stands in every `audit verify` until a person has looked into it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.compute as pc

from lepton_etl.config.sections import AuditSettings
from lepton_etl.errors import ModelError
from lepton_etl.lake.tables import Lake
from lepton_etl.models.registry import ACCEPTED, ANNOUNCED_TAG, Move, Registry
from lepton_etl.models.stored import Version
from lepton_etl.schema.trust import AUDIT
from lepton_etl.trust.chain import MODEL, Event, known_champions, record
from lepton_etl.trust.seal import parsed
from lepton_etl.trust.verify import alias_is, number_of


@dataclass(frozen=True)
class Champions:
    """Tells the audit chain of a lake what becomes champion in a registry."""

    lake: Lake
    audit: AuditSettings
    run_id: str
    registry: Registry

    def announce(self, move: Move) -> str:
        """Record a move of the alias that is about to be made; the number of its event.

        Raises ModelError, and nothing is recorded, where the version's files are not those that were registered.
        """
        version, tags = move.version, move.version.tags
        digest = self.registry.digest(version)
        if digest != tags.get("model_sha256"):
            raise ModelError(
                "its files are not those that were registered",
                where=f"models:/{version.name}/{version.version}",
                remedy="restore them from a copy, or train again",
            )
        learnt = json.loads(tags.get("delta_versions", "{}"))
        detail = {name: tags[name] for name in ("training_table_sha256", "code_version") if name in tags}
        detail |= _champion(version, digest, number_of(move.before)) | {"decision": move.decision}
        inputs = {table: at for table, at in learnt.items() if at is not None}
        return str(self._record(Event("promotion", version.name, inputs=inputs, detail=detail)))

    def settle(self, names: Collection[str]) -> tuple[str, ...]:
        """Finish what a killed run announced or accepted, and record aliases that no event knows; notes.

        `names` are the site's own models.
        """
        known = known_champions(self.lake)
        # The chain of an older release knows no digest of a model: champions are taken up as they stand.
        strange = "unclaimed" if known else "adoption"
        return tuple(
            line
            for name in sorted({*names, *known})
            for line in self._settled(name, known.get(name), strange)
        )

    def _settled(self, name: str, event: int | None, strange: str) -> Iterator[str]:
        present, said = self.registry.champion(name), {} if event is None else self._said(event)
        move = self._open_move(name, str(event), said)
        if move is not None and number_of(present) in (said["version"], said["champion_before"]):
            self.registry.point(move, str(event))
            present = move.version
            yield f"{name} version {present.version} is champion, as event {event} says: its run was killed"
        if number_of(present) != said.get("version"):
            if (newer := known_champions(self.lake).get(name)) != event:
                # Another night moved it between the two questions.
                yield from self._settled(name, newer, strange)
                return
            digest = "" if present is None else self._digest(present)
            detail = _champion(present, digest, said.get("version"))
            number = self._record(Event(strange, name, detail=detail))
            if strange == "unclaimed":
                yield f"{name}: {alias_is(present)}, moved by no run -> lepton-etl audit acknowledge --event {number}"
            return
        accepted = [
            one for one in self.registry.versions(name)
            if one.tags.get("promotion") == ACCEPTED and int(one.version) > (number_of(present) or 0)
        ]  # fmt: skip
        if accepted:
            newest = max(accepted, key=lambda one: int(one.version))
            self.registry.promote(newest)
            yield f"{name} version {newest.version} is champion: the run that accepted it was killed"

    def _open_move(self, name: str, event: str, said: Mapping[str, Any]) -> Move | None:
        """The move that an event announced and nobody finished; None without, or where its version is gone."""
        version = self.registry.version(name, str(said["version"])) if "decision" in said else None
        if version is None or version.tags.get(ANNOUNCED_TAG) == event:
            return None
        before = said["champion_before"]
        left = None if before is None else self.registry.version(name, str(before))
        return Move(version, left, said["decision"], f"as event {event} says; its run was killed")

    def _said(self, event: int) -> dict[str, Any]:
        (text,) = self.lake.arrow(AUDIT, where=pc.field("seq") == event)["event_detail"].to_pylist()
        return parsed(text)

    def _digest(self, version: Version) -> str:
        try:
            return self.registry.digest(version)
        except ModelError as error:
            return f"none: {error.what}"

    def _record(self, event: Event) -> int:
        told = replace(event, subject=f"{MODEL}{event.subject}")
        return record(self.lake, self.audit, self.run_id, told).last


def _champion(version: Version | None, digest: str, before: int | None) -> dict[str, Any]:
    return {"version": number_of(version), "sha256": digest, "champion_before": before}
