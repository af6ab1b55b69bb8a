"""A short soak, part of `make fault-test`: five kills of one night in real processes; `make soak` makes a hundred."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.soak import Campaign, shifted_clock

SEED = int(os.environ.get("SEED", "1"))


@pytest.mark.fault
@pytest.mark.timeout(900)
def test_five_kills_leave_no_trace(tmp_path: Path) -> None:
    campaign = Campaign(SEED, "local", 5, tmp_path / "soak", days=1, clock=shifted_clock(tmp_path))
    assert campaign.run() == [], f"SEED={SEED}: {campaign.struck}"
    assert len(campaign.struck) == 5
