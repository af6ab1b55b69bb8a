"""Check a proof that `lepton-etl audit prove` gave; needs Python and `cryptography`, neither lepton_etl nor a lake.

    python check_audit_proof.py PROOF.json [--key PUBLIC_KEY_HEX] [--anchor ROOTS.jsonl]

Prints the event and says what was checked; exit code 1 where the proof does not hold. `--key` is the key that must have
signed the root (else the one that the proof names is taken, and said), `--anchor` the auditor's copy of the roots.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def main() -> int:
    """Check the proof that the command line names."""
    parser = argparse.ArgumentParser(description="Check an inclusion proof of a lepton-etl audit chain.")
    parser.add_argument("proof", type=Path)
    parser.add_argument("--key", help="public key (hex) that must have signed the root")
    parser.add_argument(
        "--anchor", type=Path, help="the auditor's file of roots: the proof's must be among them"
    )
    asked = parser.parse_args()
    try:
        proof = json.loads(asked.proof.read_bytes())
        lines = list(checked(proof, asked.key))
        if asked.anchor is not None:
            anchored = [json.loads(line) for line in asked.anchor.read_text().splitlines()]
            require(proof["signed_root"] in anchored, "the root is not among those that were anchored")
            lines.append("the root is one that was anchored")
    except InvalidSignature:
        print("the proof does not hold: the signature does not fit")
        return 1
    except (KeyError, TypeError, ValueError) as error:
        print(f"the proof does not hold: {error}")
        return 1
    print("\n".join(lines))
    return 0


def checked(proof: dict[str, Any], key: str | None = None) -> list[str]:
    """Return what the proof shows, a line each. Raises ValueError or InvalidSignature where it does not hold."""
    text, signed = proof["event"], proof["signed_root"]
    event, root = json.loads(text), signed["root"]
    lines = [json.dumps(event, indent=1, ensure_ascii=False)]
    if "file" in proof:
        found = root_by_path(proof["file"].encode(), proof["file_path"]).hex()
        require(found == event["event_detail"]["root"], "the file is not in the batch that the event names")
        lines.append(f"the file {proof['file']} is in this batch")
    leaf = hashlib.sha256(text.encode()).digest()
    require(root_by_path(leaf, proof["path"]).hex() == root["root"], "the event does not lead to the root")
    require(root["first_seq"] <= event["seq"] <= root["last_seq"], "the root is of other events")
    lines.append(
        f"event {event['seq']} is one of {root['size']} events of {root['date']}, root {root['root']}"
    )
    content = json.dumps(root, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    require(hashlib.sha256(content).hexdigest() == signed["digest"], "the digest of the root does not fit")
    if key is None and not root["key"]:
        return [*lines, "the root is not signed: ask for a copy that was anchored when it was made"]
    require(key is None or root["key"] == key, f"the root is signed by another key: {root['key'] or 'none'}")
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(root["key"])).verify(
        bytes.fromhex(signed["ed25519"]), content
    )
    whose = "the key that was asked for" if key else f"key {root['key']}: hold it against the site's"
    return [*lines, f"the root is signed by {whose}"]


def root_by_path(entry: bytes, path: list[list[str]]) -> bytes:
    """Return the root to which a path leads (RFC 6962, section 2.1: leaves under 0x00, nodes under 0x01)."""
    found = hashlib.sha256(b"\x00" + entry).digest()
    for side, beside in path:
        pair = bytes.fromhex(beside) + found if side == "left" else found + bytes.fromhex(beside)
        found = hashlib.sha256(b"\x01" + pair).digest()
    return found


def require(holds: bool, what: str) -> None:
    """Raise ValueError where it does not hold."""
    if not holds:
        raise ValueError(what)


if __name__ == "__main__":
    sys.exit(main())
