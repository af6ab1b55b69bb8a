"""Prove that an event, or a raw file, stands in the audit chain, to somebody who has neither the lake nor this package.

A proof is a JSON object: the event as its canonical text, the path from its leaf to the root of its day, and that root
with its signature; of a raw file also its own entry and the path to the root that the event of its batch names.
scripts/check_audit_proof.py checks it with the standard library and `cryptography` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import polars as pl

from lepton_etl.errors import LakeError
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE
from lepton_etl.trust.chain import FILE_COLUMNS, entry_of, file_entries
from lepton_etl.trust.merkle import path_of
from lepton_etl.trust.seal import SignedRoot, canonical, head_of, parsed
from lepton_etl.trust.verify import read_chain

FORMAT: Final = "lepton-etl inclusion proof, version 1"


def prove_event(lake: Lake, seq: int) -> dict[str, Any]:
    """Return the proof of one event. Raises LakeError where the chain has none of this number."""
    rows, unread = read_chain(lake)
    found = next((row for row in rows if row["seq"] == seq), None)
    if found is None:
        what = f"the chain has no event {seq}" + "".join(f"; {one}" for one in unread)
        raise LakeError(what, where="audit prove", remedy="lepton-etl tables show ops/audit lists the events")
    return _proof(lake, rows, found)


def _proof(lake: Lake, rows: Sequence[dict[str, Any]], found: dict[str, Any]) -> dict[str, Any]:
    """The proof of one of the chain's events."""
    of_day = [row for row in rows if row["date"] == found["date"]]
    leaves = [bytes.fromhex(row["event_hash"]) for row in of_day]
    return {
        "format": FORMAT,
        "event": canonical(entry_of(found)).decode(),
        "path": _path(leaves, of_day.index(found)),
        "signed_root": _root_of(lake, rows, found["date"].isoformat()).as_json(),
    }


def prove_file(lake: Lake, path: str) -> dict[str, Any]:
    """Return the proof of a raw file by its path in bronze/file. Raises LakeError where no event names its batch."""
    register = lake.read(FILE, columns=["batch", *FILE_COLUMNS])
    own = register.filter(path=path)
    rows, _ = read_chain(lake)
    batches = {parsed(row["event_detail"]).get("batch"): row for row in rows if row["event_kind"] == "files"}
    known = own.filter(pl.col("batch").is_in(list(batches))).sort("batch")
    if known.is_empty():
        raise LakeError(
            f"no event names a batch with the file {path}", where="audit prove",
            remedy="lepton-etl tables show bronze/file --column path --column batch lists the files",
        )  # fmt: skip
    row = known.row(-1, named=True)
    entries = file_entries(register.filter(batch=row["batch"]))
    entry = canonical({name: row[name] for name in FILE_COLUMNS})
    return _proof(lake, rows, batches[row["batch"]]) | {
        "file": entry.decode(),
        "file_path": _path(entries, entries.index(entry)),
    }


def _path(entries: Sequence[bytes], index: int) -> list[list[str]]:
    return [[side, beside.hex()] for side, beside in path_of(entries, index)]


def _root_of(lake: Lake, rows: Sequence[dict[str, Any]], day: str) -> SignedRoot:
    """The root of a day: of one that is over as a later event says it, else the head's."""
    for row in rows:
        if row["event_kind"] == "day_root" and row["subject"] == day:
            return SignedRoot.of_json(parsed(row["event_detail"]))
    head = head_of(lake.root)
    if head.signed.root.date != day:
        raise LakeError(
            f"no root of {day} stands in the chain", where="audit prove", remedy="lepton-etl audit verify"
        )
    return head.signed
