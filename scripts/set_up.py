"""Set the checkout up: virtual environment, locked packages, Java, Delta's jars. `make` calls it first.

    python3 scripts/set_up.py          what runs need
    python3 scripts/set_up.py --dev    and the tools that tests, lint and benchmarks need

Standard library only, and readable by older Pythons, so that a machine with the wrong one gets a sentence
instead of a SyntaxError. Broken off anywhere, the next run goes on from there. A second run compares a stamp and the
jars' checksums, changes nothing and needs no network.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from locked_packages import BUILD_LOCK, DEVELOPER_LOCK, USER_LOCK, UV_LOCK, install, install_uv
from machine import (
    OLDEST_PYTHON,
    Progress,
    SetUpError,
    apt_install,
    find_java,
    newer_python,
    run,
    stand_alone,
    succeeds,
)

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# Written when the environment is whole: at which place, for its scripts name their interpreter by path.
MADE = VENV / "lepton-made-at"
JAVA_HOME_FILE = VENV / "lepton-java-home"
LOG = ROOT / "var" / "set-up.log"
LOCK = ROOT / "var" / "set-up.lock"
IVY = ROOT / "var" / "ivy"
# What a set-up is made from: a change in one of them sets up again.
INPUTS = (
    UV_LOCK,
    BUILD_LOCK,
    USER_LOCK,
    "setup.cfg",
    "pyproject.toml",
    "conf/jars.sha256",
    "conf/delta-jars.conf",
    "conf/ivysettings.xml",
    "scripts/locked_packages.py",
    "scripts/machine.py",
    "scripts/set_up.py",
)
JAVA_PACKAGES = ["openjdk-21-jre-headless", "openjdk-17-jre-headless"]


class Level:
    """How much is set up: what runs need, or the developers' tools too (their lock holds the users' whole)."""

    def __init__(self, name: str, lock: str) -> None:
        self.name = name
        self.lock = lock

    @property
    def stamp(self) -> Path:
        """The file that a finished set-up leaves."""
        return VENV / f"lepton-set-up-{self.name}.stamp"

    def wanted_stamp(self) -> str:
        """What a finished set-up looks like: the checkout's place, the machine, and what it was made from."""
        inputs = dict.fromkeys((*INPUTS, self.lock))
        digests = [f"{name} {sha256(ROOT / name)}" for name in inputs]
        return "\n".join([str(ROOT), platform.machine(), *digests, ""])

    def is_set_up(self) -> bool:
        """Whether nothing is left to do."""
        if not (self.stamp.is_file() and PYTHON.exists() and JAVA_HOME_FILE.is_file()):
            return False
        java = Path(JAVA_HOME_FILE.read_text(encoding="utf-8").strip()) / "bin" / "java"
        stamped = self.stamp.read_text(encoding="utf-8")
        return stamped == self.wanted_stamp() and java.exists() and not wrong_jars()


USER = Level("user", USER_LOCK)
DEVELOPER = Level("developer", DEVELOPER_LOCK)


def sha256(path: Path) -> str:
    """Hex digest of a file, empty when there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def venv_fits() -> bool:
    """Whether .venv was made whole at this place, and runs a Python new enough."""
    fits = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    made_here = MADE.is_file() and MADE.read_text(encoding="utf-8") == f"{VENV}\n"
    return made_here and succeeds([str(PYTHON), "-c", fits])


def make_venv() -> None:
    """A virtual environment in .venv; one that works is kept."""
    if venv_fits():
        return
    # Called from inside the environment that is about to go: its own base makes the new one.
    python = getattr(sys, "_base_executable", sys.executable)
    package = "python{}.{}-venv".format(*sys.version_info[:2])
    # Debian and Ubuntu keep ensurepip in a package of its own.
    if not succeeds([python, "-c", "import ensurepip, venv"]) and not apt_install(
        [package, "python3-venv"], LOG
    ):
        raise SetUpError(f"this Python cannot make one: `sudo apt-get install {package}`, and run again")
    run([python, "-m", "venv", "--clear", str(VENV)], LOG, f"could not make {VENV}")
    MADE.write_text(f"{VENV}\n", encoding="utf-8")


def find_or_install_java() -> None:
    """Java 17 or newer, remembered for `make`."""
    home = find_java()
    if home is None and apt_install(JAVA_PACKAGES, LOG):
        home = find_java()
    if home is None:
        raise SetUpError(
            "none in JAVA_HOME, on PATH or in /usr/lib/jvm, and apt could not install one unasked: "
            "`sudo apt-get install openjdk-17-jre-headless`, or set JAVA_HOME, and run again"
        )
    JAVA_HOME_FILE.write_text(f"{home}\n", encoding="utf-8")


def wrong_jars() -> list[str]:
    """Names of the jars in conf/jars.sha256 that are absent or differ."""
    lines = (ROOT / "conf" / "jars.sha256").read_text(encoding="utf-8").splitlines()
    return [name for expected, name in map(str.split, lines) if sha256(IVY / "jars" / name) != expected]


def fetch_jars(progress: Progress) -> None:
    """Delta's jars into var/ivy by Spark's own Ivy, then their checksums.

    With a folder and settings of its own: a half-filled ~/.m2 would be asked first, and fail.
    """
    if not wrong_jars():
        return
    shutil.rmtree(IVY, ignore_errors=True)
    IVY.mkdir(parents=True)
    # Spark resolves before it runs the program it is given: an empty one is enough.
    nothing = IVY / "nothing.py"
    nothing.write_text("", encoding="utf-8")
    wanted = ["--properties-file", "conf/delta-jars.conf"]
    places = {"spark.jars.ivy": IVY, "spark.jars.ivySettings": ROOT / "conf" / "ivysettings.xml"}
    pairs = [part for key, value in places.items() for part in ("--conf", f"{key}={value}")]
    remedy = "check the network to Maven Central, then run again"
    spark_submit([*wanted, *pairs, str(nothing)], remedy, lambda _: progress.show("13 MB from Maven Central"))
    wrong = wrong_jars()
    if wrong:
        raise SetUpError(
            f"absent, or not of the SHA-256 in conf/jars.sha256: {', '.join(wrong)}. "
            "Run again; if it stays so, what was served is not what was reviewed: do not use it"
        )


def spark_submit(arguments: list[str], remedy: str, watch: Callable[[str], None]) -> None:
    """spark-submit with this environment's Python, the Java found, on loopback."""
    dropped = {"SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_DRIVER_PYTHON"}
    env = {key: value for key, value in os.environ.items() if key not in dropped}
    env["JAVA_HOME"] = JAVA_HOME_FILE.read_text(encoding="utf-8").strip()
    env["PATH"] = f"{PYTHON.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYSPARK_PYTHON"] = str(PYTHON)
    env["SPARK_LOCAL_IP"] = "127.0.0.1"
    run([str(VENV / "bin" / "spark-submit"), *arguments], LOG, remedy, env, watch)


def try_it(progress: Progress) -> None:
    """One small Delta table written and read through a Python worker."""
    arguments = ["--properties-file", "conf/spark-defaults.conf", "scripts/smoke.py"]
    remedy = "Spark with Delta does not run on this machine"
    spark_submit(arguments, remedy, lambda _: progress.show("Spark starts, writes and reads"))


def packages(level: Level, progress: Progress) -> None:
    """The locked packages of a level."""
    install(PYTHON, ROOT, level.lock, LOG, progress.show)


def steps_of(level: Level) -> tuple[tuple[str, Callable[[Progress], None]], ...]:
    """The steps in their order: name, and what is done. One that finds its work done ends at once."""
    steps: tuple[tuple[str, Callable[[Progress], None]], ...] = (
        ("virtual environment", lambda _: make_venv()),
        ("uv, which installs the packages", lambda _: install_uv(PYTHON, ROOT / UV_LOCK, LOG)),
        ("locked packages (1 GB, a minute or more the first time)", partial(packages, level)),
        ("Java 17 or newer", lambda _: find_or_install_java()),
        ("Delta's jars", fetch_jars),
        ("a first Delta table", try_it),
    )
    # Where runs work already, only packages are to be added.
    return steps[:3] if USER.is_set_up() else steps


def set_up(level: Level) -> None:
    """Run the steps; SetUpError with the step's name when one fails."""
    steps = steps_of(level)
    for number, (name, step) in enumerate(steps, start=1):
        progress = Progress(f"set-up {number}/{len(steps)}: {name}")
        try:
            step(progress)
        except (SetUpError, OSError) as error:
            progress.close("stopped")
            raise SetUpError(f"set-up failed at '{name}':\n{error}") from error
        progress.close("done")


def main(arguments: list[str] | None = None) -> int:
    """Run the steps that are needed; 1 and the step's name when one fails."""
    parser = argparse.ArgumentParser(description="Set this checkout up.")
    parser.add_argument("--dev", action="store_true", help="with the tools of tests, lint and benchmarks")
    level = DEVELOPER if parser.parse_args(arguments).dev else USER
    os.chdir(ROOT)
    if sys.version_info < OLDEST_PYTHON:
        newer = newer_python()
        if newer is None:
            this = "{}.{}".format(*sys.version_info[:2])
            print(f"set-up failed at 'Python': this is {this}; install 3.11 or newer", file=sys.stderr)
            return 1
        os.execv(newer, [newer, *sys.argv])  # noqa: S606 - the same script again, no shell wanted
    if level.is_set_up():
        return 0
    with stand_alone(LOCK):
        return bring_to(level)


def bring_to(level: Level) -> int:
    """Set up what is missing of a level."""
    # A set-up with the developers' tools has all that runs need.
    levels = [one for one in dict.fromkeys([USER, level]) if not one.is_set_up()]
    if level not in levels:
        return 0
    LOG.write_text("", encoding="utf-8")
    for one in levels:
        one.stamp.unlink(missing_ok=True)
    try:
        set_up(level)
    except SetUpError as error:
        print(error, file=sys.stderr)
        return 1
    for one in levels:
        one.stamp.write_text(one.wanted_stamp(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
