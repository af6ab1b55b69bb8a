"""The accounts of a site-hour, bills and tariffs."""

from __future__ import annotations
