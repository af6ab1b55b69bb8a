"""Fields and the table of the audit chain."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.declare import LONG, Field, Table, text, time

EVENT_KINDS: Final = (
    "adoption", "files", "stage", "promotion", "recommendation", "publication", "restatement", "run", "commits",
    "day_root", "maintenance", "close", "rebuild", "copies", "rotation", "erasure", "release", "recovery",
    "unclaimed", "rewritten", "acknowledgement",
)  # fmt: skip

FIELDS: Final[tuple[Field, ...]] = (
    Field("seq", LONG, None, "Number of the event in the chain, from 1 without a gap.", ge=1),
    time("event_time", "When it happened, UTC."),
    time("recorded_time", "When it was written into the chain, UTC; never before that of the event before."),
    text("event_kind", "What kind of event it is.", EVENT_KINDS),
    text("subject", "What it is about: a stage with its days, a published day, a table, a model, an id."),
    text(
        "actor", "Who: the number of the user of the operating system under which the process ran; no name."
    ),
    text("event_inputs", "Canonical JSON (RFC 8785): table or model -> version that was read."),
    text(
        "event_outputs",
        "Canonical JSON: table -> `commits` (version -> SHA-256 of the commit), `files` (path -> SHA-256, of files "
        "whose name says none), `checkpoints` and `hint` (SHA-256 of what the log's reader starts from).",
    ),
    text(
        "event_detail",
        "Canonical JSON: figures of the event, such as state, exit code, rows, digest of the settings.",
    ),
    text("previous_hash", "event_hash of the event before; 64 zeros of the first."),
    text("event_hash", "SHA-256 of the canonical JSON of the row's other columns."),
)

AUDIT: Final = Table(
    "ops/audit", grain="one event of the audit chain", key=(), append_only=True, partition="date", owner="trust",
    columns=(
        "seq", "date", "recorded_time", "event_time", "event_kind", "subject", "run_id", "actor", "code_version",
        "event_inputs", "event_outputs", "event_detail", "previous_hash", "event_hash",
    ),
    not_null=(
        "seq", "recorded_time", "event_time", "event_kind", "subject", "actor", "code_version",
        "event_inputs", "event_outputs", "event_detail", "previous_hash", "event_hash",
    ),
    warnings=("`lepton-etl audit verify` checks it; a row changed by hand breaks the chain.",),
)  # fmt: skip
