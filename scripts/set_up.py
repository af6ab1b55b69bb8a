"""Set the checkout up: virtual environment, locked packages, Java, Delta's jars. `make` calls it first.

Standard library only, and readable by older Pythons, so that a machine with the wrong one gets a sentence
instead of a SyntaxError. A second run compares one stamp and the jars' checksums, changes nothing and needs
no network.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import time
from pathlib import Path

from machine import OLDEST_PYTHON, SetUpError, apt_install, find_java, newer_python, run, succeeds

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "lepton-set-up.stamp"
JAVA_HOME_FILE = VENV / "lepton-java-home"
LOG = ROOT / "var" / "set-up.log"
IVY = ROOT / "var" / "ivy"
# What a set-up is made from: a change in one of them sets up again.
INPUTS = (
    "requirements-build.lock",
    "requirements.lock",
    "setup.cfg",
    "pyproject.toml",
    "conf/jars.sha256",
    "conf/ivysettings.xml",
    "scripts/machine.py",
    "scripts/set_up.py",
)
JAVA_PACKAGES = ["openjdk-21-jre-headless", "openjdk-17-jre-headless"]
DELTA = "io.delta:delta-spark_4.1_2.13:4.4.0"
# Spark ships these itself, in newer versions: 13 MB are left of 87 MB.
JARS_OF_SPARK = (
    "org.apache.hadoop:*",
    "org.apache.parquet:*",
    "org.apache.logging.log4j:*",
    "org.slf4j:*",
    "com.fasterxml.jackson.core:*",
    "com.fasterxml.jackson.datatype:*",
    "org.roaringbitmap:*",
    "com.google.code.findbugs:*",
)


def sha256(path: Path) -> str:
    """Hex digest of a file, empty when there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def venv_fits() -> bool:
    """Whether .venv runs a Python new enough, and was made at this place: its scripts name their interpreter."""
    fits = f"import sys, pip; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    pip = VENV / "bin" / "pip"
    made_here = pip.is_file() and str(PYTHON) in pip.read_text(encoding="utf-8")
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


def install_packages() -> None:
    """The locked packages, each file checked against its hash; then this project, editable.

    pyspark is published as source only: its build gets the locked setuptools and wheel, not pip's own choice.
    """
    pip = [str(PYTHON), "-m", "pip", "--no-input", "--disable-pip-version-check", "install"]
    locked = [*pip, "--require-hashes", "--no-build-isolation"]
    remedy = "check the network (pip's own settings hold), then run again: what is installed is kept"
    run([*locked, "-r", str(ROOT / "requirements-build.lock")], LOG, remedy)
    run([*locked, "-r", str(ROOT / "requirements.lock")], LOG, remedy)
    itself = ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    run([*pip, *itself], LOG, "could not install this checkout itself")


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


def fetch_jars() -> None:
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
    options = {
        "spark.jars.packages": DELTA,
        "spark.jars.excludes": ",".join(JARS_OF_SPARK),
        "spark.jars.ivy": str(IVY),
        "spark.jars.ivySettings": str(ROOT / "conf" / "ivysettings.xml"),
    }
    pairs = [part for key, value in options.items() for part in ("--conf", f"{key}={value}")]
    spark_submit([*pairs, str(nothing)], "check the network to Maven Central, then run again")
    wrong = wrong_jars()
    if wrong:
        raise SetUpError(
            f"absent, or not of the SHA-256 in conf/jars.sha256: {', '.join(wrong)}. "
            "Run again; if it stays so, what was served is not what was reviewed: do not use it"
        )


def spark_submit(arguments: list[str], remedy: str) -> None:
    """spark-submit with this environment's Python, the Java found, on loopback."""
    dropped = {"SPARK_HOME", "SPARK_CONF_DIR", "PYSPARK_DRIVER_PYTHON"}
    env = {key: value for key, value in os.environ.items() if key not in dropped}
    env["JAVA_HOME"] = JAVA_HOME_FILE.read_text(encoding="utf-8").strip()
    env["PATH"] = f"{PYTHON.parent}{os.pathsep}{env.get('PATH', os.defpath)}"
    env["PYSPARK_PYTHON"] = str(PYTHON)
    env["SPARK_LOCAL_IP"] = "127.0.0.1"
    run([str(VENV / "bin" / "spark-submit"), *arguments], LOG, remedy, env)


def try_it() -> None:
    """One small Delta table written and read through a Python worker."""
    arguments = ["--properties-file", "conf/spark-defaults.conf", "scripts/smoke.py"]
    spark_submit(arguments, "Spark with Delta does not run on this machine")


STEPS = (
    ("virtual environment", make_venv),
    ("locked packages (1 GB, some minutes the first time)", install_packages),
    ("Java 17 or newer", find_or_install_java),
    ("Delta's jars", fetch_jars),
    ("a first Delta table", try_it),
)


def wanted_stamp() -> str:
    """What a finished set-up looks like: the checkout's place, the machine, and what it was made from."""
    digests = [f"{name} {sha256(ROOT / name)}" for name in INPUTS]
    return "\n".join([str(ROOT), platform.machine(), *digests, ""])


def is_set_up() -> bool:
    """Whether nothing is left to do."""
    if not (STAMP.is_file() and PYTHON.exists() and JAVA_HOME_FILE.is_file()):
        return False
    java = Path(JAVA_HOME_FILE.read_text(encoding="utf-8").strip()) / "bin" / "java"
    return STAMP.read_text(encoding="utf-8") == wanted_stamp() and java.exists() and not wrong_jars()


def main() -> int:
    """Run the steps that are needed; 1 and the step's name when one fails."""
    os.chdir(ROOT)
    if sys.version_info < OLDEST_PYTHON:
        newer = newer_python()
        if newer is None:
            this = "{}.{}".format(*sys.version_info[:2])
            print(f"set-up failed at 'Python': this is {this}; install 3.11 or newer", file=sys.stderr)
            return 1
        os.execv(newer, [newer, *sys.argv])  # noqa: S606 - the same script again, no shell wanted
    if is_set_up():
        return 0
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("", encoding="utf-8")
    if STAMP.exists():
        STAMP.unlink()
    for number, (name, step) in enumerate(STEPS, start=1):
        print(f"set-up {number}/{len(STEPS)}: {name} ...", flush=True)
        begin = time.monotonic()
        try:
            step()
        except (SetUpError, OSError) as error:
            print(f"set-up failed at '{name}':\n{error}", file=sys.stderr)
            return 1
        print(f"  done in {time.monotonic() - begin:.0f} s", flush=True)
    STAMP.write_text(wanted_stamp(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
