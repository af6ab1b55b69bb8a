"""Jobs, what they held, and the energy they are charged with."""

from __future__ import annotations
