"""What was published when, and what changed since."""

from __future__ import annotations
