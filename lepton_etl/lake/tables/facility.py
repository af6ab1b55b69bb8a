"""The fitted model of the facility."""

from __future__ import annotations
