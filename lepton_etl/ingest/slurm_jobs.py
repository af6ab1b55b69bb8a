"""Fields of Slurm's accounting, as sacct writes them, to rows of JOB_SCHEMA."""

from dataclasses import replace
from typing import Annotated, Final

import polars as pl
from pydantic import AfterValidator

from lepton_etl.ingest.decoded import JOB_SCHEMA, READING_SCHEMA, Decoded, as_table, number_of, reject_table
from lepton_etl.ingest.units import parse_stamps, says_a_day

# sacct's names of what a job row is made of, in the order in which they are believed.
JOB_ID: Final = ("JobIDRaw", "JobID")
FIELDS: Final = (
    *JOB_ID, "Cluster", "User", "Account", "Partition", "State", "Submit", "Start", "End", "NodeList", "NNodes",
    "AllocNodes", "AllocCPUS", "NCPUS", "AllocTRES", "Restarts", "ConsumedEnergyRaw", "TRESUsageInTot",
    "ConsumedEnergy", "TotalCPU",
)  # fmt: skip
# What other schedulers' formats add to them: the kind of record (null: told by the id), the one node it is about, its
# devices (comma-separated), who is charged.
BESIDE: Final = ("Record", "NodeId", "DeviceIds", "TenantId")
JOB_FIELDS: Final = {"source_position": pl.Int64(), "raw_text": pl.String()} | {
    name: pl.String() for name in (*FIELDS, *BESIDE)
}

_NOTHING: Final = ("", "unknown", "none", "none assigned", "n/a", "(null)")
# NO_VAL and INFINITE of 32 and 64 bits (slurm.h) stand for "not known".
_NO_VALUES: Final = ("4294967294", "4294967295", "18446744073709551614", "18446744073709551615")
# Slurm's service writes the expected end of a job that runs, and the expected start of one that waits.
_WAITING: Final = ("PENDING", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")
_NOT_ENDED: Final = (*_WAITING, "RUNNING", "SUSPENDED", "CONFIGURING", "STOPPED", "SIGNALING", "RESIZING")
_STAMPS: Final = {"Submit": "submit_time", "Start": "start_time", "End": "end_time"}
_EPOCH: Final = r"^\d{9,11}$"  # SLURM_TIME_FORMAT=%s, and the service.
_YEAR_FIRST: Final = r"^(\d{4})[-/.](\d\d)[-/.](\d\d)[-T_/ ](\d\d:\d\d)"
_BYTES: Final = {"K": 1024.0, "": 1024.0**2, "M": 1024.0**2, "G": 1024.0**3, "T": 1024.0**4, "P": 1024.0**5}
_JOULES: Final = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


def decode_jobs(
    rows: pl.DataFrame,
    timezone: str,
    faults: pl.DataFrame,
    structure_lines: int = 0,
    time_format: str | None = None,
) -> Decoded:
    """Jobs and rejects out of rows of JOB_FIELDS; `faults` (source_position, reason, raw_text) could not be read.

    A row with a stamp or number that cannot be read is a reject; an exact repeat is a duplicate. An energy of 0 J is
    what Slurm writes where nothing measures it: unknown. Source: man sacct; slurm.h.
    """
    named = [pl.lit(None, dtype=pl.String).alias(name) for name in JOB_FIELDS if name not in rows.columns]
    fields = rows.with_columns(named).with_columns(_known(name) for name in (*FIELDS, *BESIDE))
    state = pl.col("State").str.split(" ").list.first()  # CANCELLED by 1001
    jobs = fields.with_columns(state.alias("State"), pl.coalesce(*JOB_ID).alias("id"))
    # A run that was requeued has both; the job that waits to run again has the start that Slurm expects.
    half_known = _is(("REQUEUED",)) & (pl.col("start_time").is_null() | pl.col("end_time").is_null())
    step = pl.col("id").str.split_exact(".", 1).struct.field("field_1")
    jobs = _with_stamps(jobs, timezone, time_format).select(
        "raw_text",
        pl.coalesce("time_reason", _number_reason(), pl.when(pl.col("id").is_null()).then(pl.lit("no_job_id"))).alias(
            "reason"
        ),
        pl.col("Cluster").alias("cluster_name"),
        pl.when(pl.col("Record").is_null()).then(pl.col("id").str.split(".").list.first()).otherwise("id").alias("job_id"),
        pl.when(pl.col("Record").is_null()).then(step).alias("step_id"),
        _whole("Restarts").alias("restart"),
        pl.col("User").alias("user_name"),
        pl.col("Account").alias("account"),
        pl.col("Partition").alias("partition"),
        pl.col("State").alias("state"),
        "submit_time",
        pl.when(~_is(_WAITING) & ~half_known).then("start_time").alias("start_time"),
        pl.when(~_is(_NOT_ENDED) & ~half_known).then("end_time").alias("end_time"),
        pl.col("NodeList").alias("node_list"),
        pl.coalesce(_whole("NNodes"), _whole("AllocNodes"), _allocated("node")).alias("node_count"),
        pl.coalesce(_whole("AllocCPUS"), _whole("NCPUS"), _allocated("cpu")).alias("cpu_count"),
        _gpus().alias("gpu_count"),
        _scaled(pl.col("AllocTRES").str.extract_groups(r"(?:^|,)mem=([\d.]+)([KMGTP]?)"), _BYTES).alias("memory_byte"),
        _energy().alias("consumed_energy_j"),
        "source_position",
        pl.coalesce("Record", pl.when(step.is_null()).then(pl.lit("job")).otherwise(pl.lit("step"))).alias("record"),
        pl.col("NodeId").alias("node_id"),
        pl.col("DeviceIds").alias("device_ids"),
        pl.coalesce("TenantId", "Account").alias("tenant_id"),
        _cpu_time().alias("cpu_time_s"),
    )  # fmt: skip
    usable = jobs.filter(pl.col("reason").is_null())
    same = [name for name in JOB_SCHEMA.names if name != "source_position"]
    kept = usable.unique(subset=same, keep="first", maintain_order=True)
    refused = jobs.filter(pl.col("reason").is_not_null())
    rejects = reject_table([faults, refused], None)
    return Decoded(
        readings=READING_SCHEMA.empty_table(),
        rejects=rejects,
        records=usable.height + rejects.num_rows,
        duplicates=usable.height - kept.height,
        structure_lines=structure_lines,
        jobs=as_table(kept.with_columns(pl.col("device_ids").str.split(",")), JOB_SCHEMA),
    )


def slurm_time_format(text: str | None) -> str | None:
    """Return SLURM_TIME_FORMAT as polars reads it. Raises ValueError where it does not give back a whole stamp."""
    if text is not None and not says_a_day(text):
        raise ValueError(f"{text!r} does not give back the day that it writes: run sacct with a full format")
    return text


TimeFormat = Annotated[str | None, AfterValidator(slurm_time_format)]
TIME_FORMAT: Final = (
    "SLURM_TIME_FORMAT of the command that wrote the stamps; null: ISO 8601 or another order from the year on, "
    "and epochs (%s)."
)


def beside(readings: Decoded, jobs: Decoded) -> Decoded:
    """Return readings and jobs of one document together."""
    together = Decoded.merge([readings, jobs])
    return replace(together, rejects=together.rejects.sort_by("source_position"))


def _known(name: str) -> pl.Expr:
    """Return a field without blanks around it; null where it says nothing."""
    text = pl.col(name).str.strip_chars()
    nothing = text.str.to_lowercase().is_in(_NOTHING) | text.is_in(_NO_VALUES)
    return pl.when(~nothing).then(text).alias(name)


def _with_stamps(jobs: pl.DataFrame, timezone: str, time_format: str | None) -> pl.DataFrame:
    """Add submit_time, start_time, end_time and time_reason; epochs and local wall clocks of `timezone`."""
    times, reasons = [], []
    for name, column in _STAMPS.items():
        text = jobs.get_column(name)
        # SLURM_TIME_FORMAT may set other marks between the parts: from the year on they say the same.
        iso = text if time_format else text.str.replace(_YEAR_FIRST, "${1}-${2}-${3}T${4}")
        clock = parse_stamps(iso, timezone=timezone, format=time_format)
        epoch = parse_stamps(text, timezone="UTC", epoch="s")
        by_epoch = text.str.contains(_EPOCH).fill_null(False)
        time = clock.get_column("time").zip_with(~by_epoch, epoch.get_column("time"))
        reason = clock.get_column("reason").zip_with(~by_epoch, epoch.get_column("reason"))
        # Slurm writes 0 for a time that has not come.
        absent = text.is_null() | (text == "0")
        times.append(time.alias(column))
        reasons.append(pl.DataFrame({"reason": reason, "absent": absent}).select(
            pl.when(~pl.col("absent")).then("reason").alias(f"{column}_reason")
        ))  # fmt: skip
    frame = pl.concat([jobs.with_columns(times), *reasons], how="horizontal")
    return frame.with_columns(
        pl.coalesce(f"{column}_reason" for column in _STAMPS.values()).alias("time_reason")
    )


def _is(states: tuple[str, ...]) -> pl.Expr:
    return pl.col("State").is_in(states).fill_null(False)


def _whole(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.Int32, strict=False)


def _number_reason() -> pl.Expr:
    counts = ("Restarts", "NNodes", "AllocNodes", "AllocCPUS", "NCPUS")
    bad = pl.any_horizontal(pl.col(name).is_not_null() & (_whole(name).fill_null(-1) < 0) for name in counts)
    energy = pl.col("ConsumedEnergyRaw")
    return pl.when(bad | (energy.is_not_null() & number_of(energy).is_null())).then(pl.lit("bad_number"))


def _allocated(resource: str) -> pl.Expr:
    return pl.col("AllocTRES").str.extract(rf"(?:^|,){resource}=(\d+)(?:,|$)").cast(pl.Int32, strict=False)


def _gpus() -> pl.Expr:
    """GPUs of all types together, else the sum of the types; null where none is named, for Slurm may not count them."""
    typed = pl.col("AllocTRES").str.extract_all(r"gres/gpu:[^=,]+=\d+")
    counts = typed.list.eval(pl.element().str.extract(r"=(\d+)$").cast(pl.Int32, strict=False))
    return pl.coalesce(_allocated("gres/gpu"), pl.when(typed.list.len() > 0).then(counts.list.sum()))


def _scaled(groups: pl.Expr, scale: dict[str, float]) -> pl.Expr:
    """Return the number of the first group by the suffix of the second."""
    number = groups.struct.field("1").cast(pl.Float64, strict=False)
    return number * groups.struct.field("2").replace_strict(scale, default=None, return_dtype=pl.Float64)


def _energy() -> pl.Expr:
    used = pl.col("TRESUsageInTot").str.extract(r"(?:^|,)energy=(\d+)(?:,|$)")
    rounded = _scaled(pl.col("ConsumedEnergy").str.extract_groups(r"^([\d.]+)([KMGTP]?)$"), _JOULES)
    joules = pl.coalesce(number_of(pl.col("ConsumedEnergyRaw")), used.cast(pl.Float64, strict=False), rounded)
    return pl.when(joules.is_finite() & (joules > 0)).then(joules)


def _cpu_time() -> pl.Expr:
    """CPU seconds used, [days-[hours:]]minutes:seconds; 0 is what Slurm writes where nothing gathers it: unknown."""
    used = pl.col("TRESUsageInTot").str.extract(r"(?:^|,)cpu=([\d:.-]+)(?:,|$)")
    parts = pl.coalesce("TotalCPU", used).str.extract_groups(r"^(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+(?:\.\d+)?)$")
    seconds = pl.sum_horizontal(
        parts.struct.field(str(place)).cast(pl.Float64, strict=False).fill_null(0.0) * scale
        for place, scale in ((1, 86_400.0), (2, 3600.0), (3, 60.0), (4, 1.0))
    )
    return pl.when(seconds > 0).then(seconds)
