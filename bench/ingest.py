"""make bench-ingest: our bronze stage against DuckDB, polars, Spark's own functions and the floor, on the same rows."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from pathlib import Path
from typing import Final

import duckdb
from deltalake import DeltaTable

from bench import inputs, mapping
from bench.measure import RESULTS, Figure, Run, figure, in_turn, print_runs, ratio, write

TARGETS: Final[dict[str, dict[str, float]]] = {
    "ipmitool": {"duckdb": 0.5, "spark": 0.3, "floor": 1.6},
    "csv": {"duckdb": 1.5},
    "prometheus": {"duckdb": 2.0},
    "parquet": {"duckdb": 2.0},
}
# From here on what each of our tasks costs is small beside its rows.
OTHERS_MIB: Final = 300
# Half of what the file itself would take, interpreter and libraries included.
LARGE_WORKER_MIB: Final = 1024.0
PEERS: Final = ("duckdb", "polars", "spark", "floor")
OURS: Final = "bronze"
_MIB: Final = 1 << 20
_FINGERPRINT: Final = """
    SELECT count(*) AS rows, sum(hash(file, position::BIGINT, sensor, epoch_us(reading_time), value)::HUGEINT)::VARCHAR
    FROM found"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", default=list(inputs.MAKERS), choices=list(inputs.MAKERS))
    parser.add_argument(
        "--mib", type=int, default=1024, help=f"text of ipmitool; the other kinds take {OTHERS_MIB} at most"
    )
    chosen = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    figures: list[Figure] = []
    for kind in chosen.kinds:
        if kind == "large":
            figures += bench_large(2 * chosen.mib * _MIB, cores)
            continue
        figures += bench(
            kind,
            (chosen.mib if kind == "ipmitool" else min(chosen.mib, OTHERS_MIB)) * _MIB,
            chosen.rounds,
            cores,
        )
    path = write("ingest", figures)
    print(f"figures: {path}")
    for row in figures:
        if row.target is not None:
            print(
                f"{'ok  ' if row.ok else 'MISS'} {row.name} = {row.value:g} {row.unit} (target {row.target})"
            )


def bench(kind: str, least_bytes: int, rounds: int, cores: list[int]) -> list[Figure]:
    """All contenders on one kind of input, their rows checked equal in every round."""
    folder = RESULTS.resolve() / "data" / f"{kind}-{least_bytes // _MIB}"
    files = inputs.make(kind, folder, least_bytes)
    mapping.write(kind, files, folder / ".mapping.csv")
    delivered = sum(file.stat().st_size for file in files)
    print(
        f"{kind}: {len(files)} files, {least_bytes / _MIB:.0f} MiB of text, {delivered / _MIB:.0f} MiB delivered"
    )
    runs: dict[str, list[Run]] = {name: [] for name in (OURS, *PEERS)}
    for number in range(rounds):
        out = RESULTS.resolve() / "out" / f"{kind}-{number}"
        shutil.rmtree(out, ignore_errors=True)
        commands = {OURS: ["-m", "bench.ours", kind, str(folder), str(out / OURS)]}
        commands |= {name: ["-m", "bench.peers", name, kind, str(folder), str(out / name)] for name in PEERS}
        for name, done in in_turn(commands, number, cores).items():
            runs[name].append(done)
        check_equal(out)
        shutil.rmtree(out)
    print_runs(
        f"{kind}: medians of {rounds} rounds on {len(cores)} cores; the rows of all are equal", runs, OURS
    )
    targets = TARGETS.get(kind, {})
    figures = [
        figure(
            f"{kind}: wall time, bronze / {name}", ratio(runs, OURS, name), "ratio", rounds, targets.get(name)
        )
        for name in PEERS
    ]
    rates = [run.rows / run.cpu_s for run in runs[OURS]]
    peak = max(run.worker_peak_mib for run in runs[OURS])
    return [
        *figures,
        figure(f"{kind}: rows per CPU second of bronze", statistics.median(rates), "1/s", rounds),
        figure(f"{kind}: peak memory of a worker of bronze", peak, "MiB", rounds),
    ]


def bench_large(least_bytes: int, cores: list[int]) -> list[Figure]:
    """The memory of a worker that reads one file of all the text, ours alone: what is bounded needs no peer."""
    folder = RESULTS.resolve() / "data" / f"large-{least_bytes // _MIB}"
    inputs.make("large", folder, least_bytes)
    out = RESULTS.resolve() / "out" / "large"
    shutil.rmtree(out, ignore_errors=True)
    run = in_turn({OURS: ["-m", "bench.ours", "large", str(folder), str(out / OURS)]}, 0, cores)[OURS]
    shutil.rmtree(out)
    name = f"one file of {least_bytes // _MIB} MiB: peak memory of a worker of bronze"
    return [figure(name, run.worker_peak_mib, "MiB", 1, LARGE_WORKER_MIB)]


def check_equal(out: Path) -> None:
    """Raises SystemExit unless every contender wrote the same (file, position, sensor, time, value)."""
    found = {folder.name: _fingerprint(folder) for folder in sorted(out.iterdir())}
    if len(set(found.values())) != 1:
        raise SystemExit(f"bench: the rows differ: {found}")


def _fingerprint(folder: Path) -> tuple[object, ...]:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    if folder.name == OURS:
        connection.register("reading", DeltaTable(str(folder / "bronze/reading")).to_pyarrow_dataset())
        connection.register("file", DeltaTable(str(folder / "bronze/file")).to_pyarrow_dataset())
        connection.execute(
            """CREATE VIEW found AS SELECT regexp_extract(path, '[^/]+$') AS file, source_position AS position, sensor,
                      reading_time, value FROM reading JOIN file USING (file_id)"""
        )
    elif folder.name == "spark":
        connection.register("found", DeltaTable(str(folder / "rows")).to_pyarrow_dataset())
    else:
        connection.execute(f"CREATE VIEW found AS FROM read_parquet('{folder}/*.parquet')")
    rows = connection.execute(_FINGERPRINT).fetchone()
    assert rows is not None
    return tuple(rows)


if __name__ == "__main__":
    main()
