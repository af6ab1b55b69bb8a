"""Every hour of four US balancing authorities in 2022: our weighted mean is the publisher's avg_CI."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lepton_etl.carbon.mix import mix_intensity
from lepton_etl.errors import MissingFactorError
from lepton_etl.registers.factors import load_factors

DATA = (
    Path(os.environ.get("LEPTON_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    / "grid-ci-eia930-2022"
)
# Hours without any figure, counted in the files: the rest must agree.
EMPTY_HOURS = {"CISO": 3, "ERCO": 0, "NYIS": 0, "PJM": 23}
DAY = date(2022, 6, 3)

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason="LEPTON_REAL_DATA holds no grid-ci-eia930-2022"),
]


@pytest.mark.parametrize("zone", EMPTY_HOURS)
def test_avg_ci_of_every_hour(zone: str) -> None:
    hours = pl.read_csv(DATA / f"{zone}_NG_avgCI.csv.gz", schema_overrides={"avg_CI": pl.Float64})
    fuels = [name for name in hours.columns if name not in ("timestamp", "avg_CI")]
    generation = {name: hours[name].cast(pl.Float64).to_numpy() for name in fuels}
    computed, published = mix_intensity(generation, load_factors(), DAY), hours["avg_CI"].to_numpy()
    known = np.isfinite(published)
    assert hours.height == 8760
    assert int((~known).sum()) == EMPTY_HOURS[zone]
    # 1e-12 relative: the last digits of adding eight doubles in another order.
    np.testing.assert_allclose(computed[known], published[known], rtol=1e-12)
    assert not np.isfinite(computed[~known]).any()


def test_a_fuel_without_a_factor_is_an_error() -> None:
    with pytest.raises(MissingFactorError, match="fuel GEO"):
        mix_intensity({"GEO": np.array([1.0])}, load_factors(), DAY)
