"""What the ledger tolerates before it refuses to publish."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class LedgerSettings(BaseModel):
    """Limits of the closed ledger; beyond them a night ends with exit code 3 and gold stays as it was.

    A residual inside three standard deviations of its own error is never refused: the meters cannot tell it
    from zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    residual_max_ratio: float = Field(
        default=0.05, ge=0, le=1, description="Largest |residual| of a day over its sources."
    )
    residual_hour_max_ratio: float = Field(
        default=0.15, ge=0, le=1, description="Largest |residual| of an hour over its sources."
    )
    unattributed_max_ratio: float = Field(
        default=0.10,
        ge=0,
        le=1,
        description="Largest share of a day's IT energy without an owner; judged where jobs are accounted.",
    )


class TariffSettings(BaseModel):
    """What a kWh, a kW and a month cost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Path | None = Field(
        default=None, description="CSV of prices (docs/methodology.md, bills and tariffs)."
    )


class BillingSettings(BaseModel):
    """The invoices that gold/bill_check holds against the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    invoices: Path | None = Field(default=None, description="CSV of invoices, one row a billed month.")
    tolerance_ratio: float = Field(
        default=0.02, ge=0, le=1, description="Difference to the invoice up to which the two agree."
    )
