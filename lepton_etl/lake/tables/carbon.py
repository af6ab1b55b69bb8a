"""Emissions, instruments, embodied carbon, KPIs."""

from __future__ import annotations
