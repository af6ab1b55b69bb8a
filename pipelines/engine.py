"""Run the tasks of a stage in Spark, in a pool of processes, or in this process.

A stage hands over work for items (`map`), or work that parts its rows by bucket and work that takes all rows
of a bucket (`exchange`). Rows go from one task to another as Arrow IPC bytes that nobody unpacks on the way.
Work functions are picklable: functions of a module, or frozen dataclasses with `__call__`. Stages do not know
which engine runs them, and a test holds the tables of all engines equal.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
    as_completed,
    wait,
)
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from heapq import heappop, heappush
from multiprocessing import active_children, forkserver, get_context, parent_process
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar
from zipimport import zipimporter

import psutil

from lepton_etl import errors
from lepton_etl.errors import ConfigurationError, LeptonError, WorkerLostError, naming, of_system

if TYPE_CHECKING:
    from pyspark import RDD, SparkContext
    from pyspark.sql import SparkSession

T = TypeVar("T")
R = TypeVar("R")
Split = Callable[[T], Iterable[tuple[int, bytes]]]
Reduce = Callable[[int, Sequence[bytes]], R]

# What every task needs: imported once before the pool's processes part, and never used there. SciPy's functions come
# first for skops, which looks for each of them in all modules, in the order of their import.
_PRELOADED: Final = [
    "scipy.special", "polars", "pyarrow", "pyarrow.parquet", "pyarrow.compute", "numpy", "pandas", "deltalake",
    "pipelines.bronze", "pipelines.silver",
]  # fmt: skip


_TELL_S: Final = 0.5
_LOOK_S: Final = 0.05
# How long an idle process has to leave by itself.
_LEAVE_S: Final = 2.0
_SECRET: Final = (".access.key", ".secret.key", ".session.token")
# There is a process for every core: the libraries read these as they are imported.
_ONE_THREAD: Final = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}


# How often tasks are tried whose process dies.
ATTEMPTS: Final = 2
# What Spark says of a process that died: the Python worker, or a whole executor.
_LOST: Final = ("Python worker exited unexpectedly", "ExecutorLostFailure")

Progress = Callable[[int, int], None]
"""Called as tasks end: how many of the call's tasks are done, and how many there are."""


def balanced(items: Sequence[T], parts: int, size: Callable[[T], int]) -> list[list[T]]:
    """Return at most `parts` groups of about equal size, so that tasks end at about the same time.

    The largest goes first, each into the lightest group; none is empty.
    """
    groups: list[list[T]] = [[] for _ in range(min(parts, len(items)))]
    lightest = [(0, number) for number in range(len(groups))]
    for item in sorted(items, key=size, reverse=True):
        weight, number = heappop(lightest)
        groups[number].append(item)
        heappush(lightest, (weight + max(1, size(item)), number))
    return groups


@dataclass(frozen=True, slots=True)
class Work:
    """What an engine was asked for since it was opened: Spark jobs and SQL executions."""

    jobs: int = 0
    executions: int = 0

    def __sub__(self, before: Work) -> Work:
        return Work(self.jobs - before.jobs, self.executions - before.executions)

    def __add__(self, other: Work) -> Work:
        return Work(self.jobs + other.jobs, self.executions + other.executions)


def _silent(_done: int, _total: int) -> None:
    """Say nothing of the progress."""


class Engine(Protocol):
    """Runs the tasks of a stage."""

    progress: Progress
    # What this process does, piece by piece, while it waits for tasks: the rest of it nobody does.
    meanwhile: list[Callable[[], object]]

    def work(self) -> Work:
        """Return the jobs and executions so far."""
        ...

    @property
    def parallelism(self) -> int:
        """How many tasks run at the same time."""
        ...

    def map(self, work: Callable[[T], R], items: Sequence[T], attempts: int = ATTEMPTS) -> list[R]:
        """Run one task an item; results in the order of the items. No items, no tasks.

        Raises WorkerLostError where a process that runs tasks died in every attempt.
        """
        ...

    def exchange(self, tasks: Sequence[T], split: Split[T], reduce: Reduce[R], buckets: int) -> list[R]:
        """Part what `split` yields of each task by bucket, and give `reduce` all parts of one bucket.

        `reduce` is called once for every bucket from 0, also for one without parts; the order of the parts is not
        fixed, so it has to sort. Results are small, in the order of the buckets. No tasks, no results.
        """
        ...

    def storage_option(self, name: str) -> str | None:
        """Return a Hadoop option of the storage, such as `fs.s3a.endpoint`; None where it is not set."""
        ...

    def begin_aside(self, ready: Callable[[], object], *later: Callable[[], object]) -> None:
        """Start a process for `aside` where the engine has processes; `ready` imports there what its work needs.

        `later` goes on there, piece by piece, until the first work is begun.
        """
        ...

    @property
    def has_aside(self) -> bool:
        """Whether there is a process aside."""
        ...

    def aside(self, work: Callable[[], R]) -> Callable[[], R]:
        """Begin work in the process that was begun; calling what is returned waits for its result, once.

        Without such a process the work is done here, when it is called. The process does one piece of work after the
        other. The call raises what the work raises, and WorkerLostError where the process died.
        """
        ...

    def end_aside(self) -> None:
        """End the process that was begun, if any."""
        ...


class Aside:
    """A process that imports what one piece of work needs, which takes seconds, while the driver does other things."""

    def __init__(self, method: str, ready: Callable[[], object], *later: Callable[[], object]) -> None:
        context: Any = get_context(method)
        self._driver, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, ready, *later), daemon=True)
        self._process.start()
        there.close()
        # A pipe holds little: who sends much waits until the process takes it, after the work that it has.
        self._sender = ThreadPoolExecutor(1)
        self._begun = 0
        # Of work whose result was awaited before it was asked for.
        self._results: list[tuple[Any, Exception | None]] = []

    def begin(self, work: Callable[[], R]) -> Callable[[], R]:
        place = self._begun
        self._begun += 1
        self._sender.submit(self._driver.send_bytes, ForkingPickler.dumps(work))

        def result() -> Any:
            while len(self._results) <= place:
                try:
                    self._results.append(self._driver.recv())
                except (EOFError, ConnectionResetError):
                    raise _lost("the process aside", 1) from None
            found, error = self._results[place]
            self._results[place] = None, error
            if error is not None:
                raise error
            return found

        return result

    def close(self) -> None:
        # One that has nothing to do gives its semaphores back, or Python warns of them after a run's last line.
        with suppress(EOFError, OSError):
            while len(self._results) < self._begun and self._driver.poll():
                self._results.append(self._driver.recv())
        if len(self._results) == self._begun:
            with suppress(OSError):
                self._driver.send(None)
            self._process.join(_LEAVE_S)
        self._process.terminate()
        self._process.join()
        # What it did not take any more fails now.
        self._sender.shutdown()
        self._driver.close()


def _serve(driver: Any, ready: Callable[[], object], *later: Callable[[], object]) -> None:
    _begin()
    gc.disable()
    # skops, which learning takes, looks for each of its functions in all modules imported before it.
    import scipy.special  # noqa: F401

    _try(ready)
    for piece in later:
        if driver.poll():
            break
        _try(piece)
    # What is imported lives on: nobody looks through it for garbage.
    gc.freeze()
    gc.enable()
    while True:
        try:
            work = driver.recv()
        except EOFError:
            return
        if work is None:
            return
        try:
            driver.send((work(), None))
        except Exception as error:
            driver.send((None, error))


def _try(piece: Callable[[], object]) -> None:
    """Do a piece of what is done ahead: what cannot be imported is said by the work that needs it."""
    with suppress(Exception):
        piece()


class _WithAside:
    """What engines with processes share: at most one process aside."""

    _method: str
    _aside: Aside | None = None

    def begin_aside(self, ready: Callable[[], object], *later: Callable[[], object]) -> None:
        if self._method == "forkserver":
            prepare()
        self._aside = Aside(self._method, ready, *later)

    @property
    def has_aside(self) -> bool:
        return self._aside is not None

    def aside(self, work: Callable[[], R]) -> Callable[[], R]:
        return work if self._aside is None else self._aside.begin(work)

    def end_aside(self) -> None:
        if self._aside is not None:
            self._aside.close()
            self._aside = None


@contextmanager
def opened(name: str, options: Mapping[str, str], application: str) -> Iterator[Engine]:
    """Open the engine `spark` or `local` by Spark settings, and end what it started.

    Neither starts anything before its first task.
    """
    if name == "local":
        with LocalEngine(options=options) as local:
            yield local
        return

    def start() -> SparkSession:
        from py4j.protocol import Py4JJavaError

        from lepton_etl.lake.session import spark_session

        try:
            session = spark_session(application, options)
        except Py4JJavaError as error:
            cause = root_cause(str(error))
            local_dir = os.environ.get("SPARK_LOCAL_DIRS") or options.get(
                "spark.local.dir", tempfile.gettempdir()
            )
            refused = of_system(cause, local_dir)
            if refused is not None:
                raise refused from error
            raise ConfigurationError(
                cause.what,
                where="Spark does not start",
                remedy="change the settings given to spark-submit, or spark.options",
            ) from error
        session.sparkContext.setLogLevel("ERROR")
        return session

    engine = SparkEngine(start)
    try:
        yield engine
    finally:
        engine.end_aside()
        engine.close()


def prepare() -> None:
    """Start the process that the local engine's processes are forked from: its imports run beside what comes next.

    A process forked from here would inherit the locks of threads that do not live on in it.
    """
    forkserver.set_forkserver_preload(_PRELOADED)
    with _environment(_ONE_THREAD):
        forkserver.ensure_running()


class InlineEngine:
    """Runs everything here and now: for tests, and for stages of a few rows."""

    parallelism = 1
    has_aside = False

    def __init__(self) -> None:
        self.progress: Progress = _silent
        self.meanwhile: list[Callable[[], object]] = []

    def work(self) -> Work:
        return Work()

    def storage_option(self, name: str) -> str | None:
        return None

    def begin_aside(self, ready: Callable[[], object], *later: Callable[[], object]) -> None:
        pass

    def aside(self, work: Callable[[], R]) -> Callable[[], R]:
        return work

    def end_aside(self) -> None:
        pass

    def map(self, work: Callable[[T], R], items: Sequence[T], attempts: int = ATTEMPTS) -> list[R]:
        return [work(item) for item in items]

    def exchange(self, tasks: Sequence[T], split: Split[T], reduce: Reduce[R], buckets: int) -> list[R]:
        if not tasks:
            return []
        parts: list[list[bytes]] = [[] for _ in range(buckets)]
        for task in tasks:
            for bucket, content in split(task):
                parts[bucket].append(content)
        return [reduce(bucket, parts[bucket]) for bucket in range(buckets)]


class LocalEngine(_WithAside):
    """A pool of processes on this machine, one a core, started with the first task; needs no JVM.

    `close` ends them; as a context manager it does so by itself. Parts of an exchange lie in one temporary file a
    task. `options` are Spark settings; those of `spark.hadoop.` name the storage.
    """

    _method = "forkserver"

    def __init__(
        self,
        processes: int | None = None,
        folder: Path | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.parallelism = processes or len(os.sched_getaffinity(0))
        self.progress: Progress = _silent
        self.meanwhile: list[Callable[[], object]] = []
        self._folder = folder
        self._options = dict(options or {})
        self._pool: ProcessPoolExecutor | None = None

    def work(self) -> Work:
        return Work()

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_aside()
        self.close()

    def storage_option(self, name: str) -> str | None:
        return self._options.get(f"spark.hadoop.{name}")

    def close(self) -> None:
        """End the processes of the pool."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _let_go(self) -> None:
        """Give up what is being told to a process that died: Pythons before 3.11.6 wait for that without end.

        Source: CPython issue 94777.
        """
        queue = getattr(self._pool, "_call_queue", None)
        if queue is not None:
            # Later ones may be closing it just now.
            with suppress(OSError):
                queue._reader.close()

    def map(self, work: Callable[[T], R], items: Sequence[T], attempts: int = ATTEMPTS) -> list[R]:
        if not items:
            return []
        return self._run(work, [(item,) for item in items], 0, len(items), attempts)

    def exchange(self, tasks: Sequence[T], split: Split[T], reduce: Reduce[R], buckets: int) -> list[R]:
        if not tasks:
            return []
        folder = Path(tempfile.mkdtemp(prefix="lepton-exchange-", dir=self._folder))
        try:
            spills = [_Spilling(split, folder / f"{number}.parts") for number in range(len(tasks))]
            total = len(tasks) + buckets
            written = self._run(_spill, list(zip(spills, tasks, strict=True)), 0, total)
            parts: list[list[_Part]] = [[] for _ in range(buckets)]
            for found in written:
                for part in found:
                    parts[part.bucket].append(part)
            reducing = _Reducing(reduce)
            return self._run(reducing, list(enumerate(parts)), len(tasks), total)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(
        self,
        work: Callable[..., R],
        calls: Sequence[tuple[Any, ...]],
        done: int,
        total: int,
        attempts: int = ATTEMPTS,
    ) -> list[R]:
        """Run the calls in the pool; results in their order, progress as they end. The first error ends the others.

        Where a process of the pool dies, what was not done is tried again in a new pool.
        """
        results: dict[int, R] = {}
        for _ in range(attempts):
            running: dict[Future[R], int] = {}
            try:
                for number, call in enumerate(calls):
                    if number not in results:
                        running[self._processes().submit(work, *call)] = number
                for ended in self._as_they_end(running):
                    results[running[ended]] = ended.result()
                    self.progress(done + len(results), total)
                return [results[number] for number in range(len(calls))]
            except BrokenProcessPool:
                results |= {
                    number: f.result() for f, number in running.items() if f.done() and not f.exception()
                }
                self._let_go()
                self.close()
            except BaseException as error:
                for future in running:
                    future.cancel()
                if isinstance(error, KeyboardInterrupt):
                    # Stopped by a signal: nobody waits for the tasks that run.
                    for process in active_children():
                        process.terminate()
                raise
        raise _lost("the local pool", attempts)

    def _as_they_end(self, running: Iterable[Future[R]]) -> Iterator[Future[R]]:
        """Yield what has ended; while nothing has, do a piece of what is to be done meanwhile."""
        waiting = set(running)
        while waiting and self.meanwhile:
            ended, waiting = wait(waiting, 0, FIRST_COMPLETED)
            if not ended:
                _try(self.meanwhile.pop(0))
            yield from ended
        # Which looks at each once, and not at all that wait whenever one ends.
        yield from as_completed(waiting)

    def _processes(self) -> ProcessPoolExecutor:
        if self._pool is None:
            prepare()
            self._pool = ProcessPoolExecutor(self.parallelism, get_context("forkserver"), _begin)
        return self._pool


class SparkEngine(_WithAside):
    """Spark's tasks and its shuffle, on this machine or on many; one job a call and no SQL execution.

    The session is started by `start` with the first task, so a night without tasks needs none. `close` stops it.
    """

    _method = "spawn"

    def __init__(self, start: Callable[[], SparkSession]) -> None:
        self.progress: Progress = _silent
        self.meanwhile: list[Callable[[], object]] = []
        self._start = start
        self._session: SparkSession | None = None

    @classmethod
    def of(cls, spark: SparkSession) -> SparkEngine:
        """Return the engine of a running session."""
        return cls(lambda: spark)

    def session(self) -> SparkSession:
        """Return the session, started where it was not yet."""
        if self._session is None:
            self._session = self._start()
        return self._session

    def close(self) -> None:
        """Stop the session where one was started."""
        if self._session is not None:
            self._session.stop()
            self._session = None

    @property
    def context(self) -> SparkContext:
        return self.session().sparkContext

    def work(self) -> Work:
        """Return the jobs and SQL executions of the session, which are numbered from 0; none where none was started."""
        if self._session is None:
            return Work()
        jobs = self._session.sparkContext.statusTracker().getJobIdsForGroup()
        executions: Any = self._session._jsparkSession.sharedState().statusStore().executionsCount()
        return Work(max(jobs, default=-1) + 1, int(executions))

    def storage_option(self, name: str) -> str | None:
        # The public conf holds only what was set for this session, not the cluster's core-site.xml.
        hadoop: Any = self.context._jsc.hadoopConfiguration()
        if not name.endswith(_SECRET):
            value: str | None = hadoop.get(name)
            return value
        # A secret may stand in a Hadoop credential store instead of the configuration.
        found = hadoop.getPassword(name)
        return None if found is None else "".join(found)

    @property
    def parallelism(self) -> int:
        return self.context.defaultParallelism

    def map(self, work: Callable[[T], R], items: Sequence[T], attempts: int = ATTEMPTS) -> list[R]:
        if not items:
            return []
        with self._naming_local_dir():
            return self._collected(
                self.context.parallelize(items, len(items)).map(_InWorker(work)), len(items), attempts
            )

    def exchange(self, tasks: Sequence[T], split: Split[T], reduce: Reduce[R], buckets: int) -> list[R]:
        if not tasks:
            return []
        with self._naming_local_dir():
            parts = self.context.parallelize(tasks, len(tasks)).flatMap(_InWorker(split))
            # The bucket is the partition: nothing is hashed or grouped again.
            exchanged = parts.partitionBy(buckets, _same)
            reduced = exchanged.mapPartitionsWithIndex(_OfPartition(reduce))
            return self._collected(reduced, len(tasks) + buckets)

    @contextmanager
    def _naming_local_dir(self) -> Iterator[None]:
        """Name the folder that Spark keeps its own files in where the driver or the JVM has no room there.

        What tasks read and write has been named by them.
        """
        try:
            yield
        except (OSError, _JvmError) as error:
            refused = of_system(error, self.context._temp_dir)
            if refused is None:
                raise
            raise refused from error

    def _collected(self, rows: RDD[R], total: int, attempts: int = ATTEMPTS) -> list[R]:
        """The results of a job, which is tried again where a worker died: in local mode Spark tries no task twice."""
        from py4j.protocol import Py4JJavaError

        for _ in range(attempts):
            try:
                with self._telling(total):
                    return self._awaited(rows.collect)
            except Py4JJavaError as error:
                if not any(sign in str(error) for sign in _LOST):
                    raise root_cause(str(error)) from error
        raise _lost("Spark", attempts)

    def _awaited(self, job: Callable[[], list[R]]) -> list[R]:
        """The results of a job; while it runs, piece by piece what is to be done meanwhile."""
        if not self.meanwhile:
            return job()
        beside = ThreadPoolExecutor(1)
        try:
            running = beside.submit(job)
            while self.meanwhile and not running.done():
                _try(self.meanwhile.pop(0))
            return running.result()
        finally:
            # A stop ends the job with its session, and waits for neither here.
            beside.shutdown(wait=False)

    @contextmanager
    def _telling(self, total: int) -> Iterator[None]:
        """Tell the progress of the job that runs meanwhile, by Spark's own status of its stages."""
        if self.progress is _silent:
            yield
            return
        tracker = self.context.statusTracker()
        known = set(tracker.getJobIdsForGroup())

        def tell() -> bool:
            done = 0
            for job in set(tracker.getJobIdsForGroup()) - known:
                info = tracker.getJobInfo(job)
                for stage in info.stageIds if info else ():
                    found = tracker.getStageInfo(stage)
                    done += found.numCompletedTasks if found else 0
            self.progress(min(done, total), total)
            return False

        with _beside(tell, _TELL_S, "progress"):
            yield


@contextmanager
def _beside(look: Callable[[], bool], every_s: float, name: str) -> Iterator[None]:
    """Look again and again in a thread meanwhile, until it says that it is done."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every_s) and not look():
            pass

    thread = threading.Thread(target=watch, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def root_cause(text: str) -> LeptonError:
    """Return what Spark's report of a failed job comes of: the error of the task, of its own kind where it is ours."""
    _, traceback, of_task = text.rpartition("Traceback (most recent call last):\n")
    if traceback:
        lines = of_task.partition("\n\tat ")[0].splitlines()
        cause = next((line for line in reversed(lines) if line[:1].strip()), "")
    else:
        causes = [line for line in text.splitlines() if line.startswith(("Caused by: ", ": "))]
        cause = (
            causes[-1].removeprefix("Caused by: ").removeprefix(": ") if causes else text.partition("\n")[0]
        )
    name, _, what = cause.partition(": ")
    kind = getattr(errors, name.rpartition(".")[2], None) if name.startswith("lepton_etl.errors.") else None
    if isinstance(kind, type) and issubclass(kind, LeptonError):
        return kind(what)
    failed = LeptonError if traceback else _JvmError
    return failed(cause, where="a task of Spark", remedy="look for the task's stderr in Spark's logs")


class _JvmError(LeptonError):
    """Spark itself failed, not the work in its tasks."""


def _lost(where: str, attempts: int) -> WorkerLostError:
    return WorkerLostError(
        f"a process that runs tasks died (killed, out of memory, or crashed), {attempts} times of {attempts}",
        where=where,
        remedy="look for the kernel's out-of-memory messages (dmesg); give the machine more memory or the run fewer "
        "processes, then run the same command again",
    )


def _same(bucket: Any) -> int:
    return int(bucket)


class _Archive(zipimporter):
    """A zip file of modules that does not change while the process lives."""

    def invalidate_caches(self) -> None:
        """Keep the list of its modules."""


def keep_archives() -> None:
    """Keep what is known of zip files on the path, in this process.

    Spark's worker has Python forget its imports before every task (`setup_spark_files` of pyspark), and Python then
    lists pyspark.zip anew for each package imported from it: 0.1 CPU-s a task, more than most tasks of a night take.
    No archive on the path of a running worker is written again.
    """
    for path, importer in list(sys.path_importer_cache.items()):
        if type(importer) is zipimporter:
            sys.path_importer_cache[path] = _Archive(path)


@cache
def _keep_imports() -> None:
    """Spark's worker looks for garbage after every task: 0.09 CPU-s, nearly all of it in what was imported once."""
    gc.freeze()


def _ready_worker() -> None:
    keep_archives()
    _keep_imports()


@dataclass(frozen=True)
class _InWorker:
    """Work in a Python worker of Spark, which may be asked for further tasks."""

    work: Callable[[Any], Any]

    def __call__(self, item: Any) -> Any:
        _ready_worker()
        return self.work(item)


@dataclass(frozen=True)
class _OfPartition:
    reduce: Callable[[int, Sequence[bytes]], Any]

    def __call__(self, bucket: int, parts: Iterable[tuple[int, bytes]]) -> Iterator[Any]:
        _ready_worker()
        yield self.reduce(bucket, [content for _, content in parts])


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes of one bucket in the file of the task that made them."""

    file: Path
    bucket: int
    start: int
    size: int


@dataclass(frozen=True)
class _Spilling:
    split: Callable[[Any], Iterable[tuple[int, bytes]]]
    file: Path


def _spill(spilling: _Spilling, task: Any) -> list[_Part]:
    """Run the first half of an exchange: its bytes go into one file, their places to the driver."""
    found: list[_Part] = []
    with spilling.file.open("wb") as handle:
        for bucket, content in spilling.split(task):
            found.append(_Part(spilling.file, bucket, handle.tell(), len(content)))
            with naming(spilling.file):
                handle.write(content)
                handle.flush()
    return found


@dataclass(frozen=True)
class _Reducing:
    """The second half of an exchange: reads the bytes of a bucket."""

    reduce: Callable[[int, Sequence[bytes]], Any]

    def __call__(self, bucket: int, parts: Sequence[_Part]) -> Any:
        contents = []
        for part in parts:
            with part.file.open("rb") as handle:
                handle.seek(part.start)
                contents.append(handle.read(part.size))
        return self.reduce(bucket, contents)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables of the environment for processes that start meanwhile, where the user has not set them."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


class MemoryLimit:
    """Raises MemoryError in the thread that opens it where its process grows by more than so much in one piece of work.

    A call into native code ends first. What such a call takes beyond the machine's memory is the kernel's to end, as
    the loss of the process. One thread looks for all pieces: to start one for each file took a tenth of bronze.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._process = psutil.Process()
        self._most: int | None = None
        self._changing = threading.Lock()
        self._watch = ExitStack()

    def __enter__(self) -> MemoryLimit:
        self._task = ctypes.c_ulong(threading.get_ident())
        self._watch.enter_context(_beside(self._look, _LOOK_S, "memory-limit"))
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.close()

    @contextmanager
    def piece(self) -> Iterator[None]:
        """Limit the growth of the process meanwhile, from its size now."""
        self._most = self._process.memory_info().rss + self._size_bytes
        try:
            yield
        finally:
            with self._changing:
                self._most = None
                # One that was asked for as the work ended must not meet what comes after it.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(self._task, None)

    def _look(self) -> bool:
        with self._changing:
            if self._most is not None and self._process.memory_info().rss > self._most:
                self._most = None
                ctypes.pythonapi.PyThreadState_SetAsyncExc(self._task, ctypes.py_object(MemoryError))
        return False


def _begin() -> None:
    """Make a process of the pool ready: it ends with its driver."""
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), name="end-with-driver", daemon=True).start()


def _end_with(parent: Any) -> None:
    # A driver that is killed cannot end its pool; nobody would take the results of a task that runs on.
    parent.join()
    os._exit(1)
