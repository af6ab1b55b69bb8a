"""The locked packages, installed by uv into the checkout's virtual environment.

Python's own pip installs one file, uv itself (requirements-uv.lock). A pip older than 24 forgets the pin of a package
that another one wants with an extra, takes its newest release, and stops because that has no hash: a lock that worked
on its first day broke a week later. uv reads the settings that a site has made for pip: its index, proxy, certificates.

Standard library only: set-up runs this before anything is installed.
"""

from __future__ import annotations

import ast
import contextlib
import csv
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from machine import SetUpError, run

UV_LOCK = "requirements-uv.lock"
BUILD_LOCK = "requirements-build.lock"
USER_LOCK = "requirements.lock"
DEVELOPER_LOCK = "requirements-dev.lock"

# Setting of pip -> the variable by which uv is told the same. Lists are separated by white space in both.
_SAME_IN_UV = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "trusted-host": "UV_INSECURE_HOST",
    "client-cert": "SSL_CLIENT_CERT",
    "default-timeout": "UV_HTTP_TIMEOUT",
    "timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES",
}
# What of the checkout a night runs.
_OF_CHECKOUT = ("lepton_etl", "pipelines")
_TRUE = {"1", "on", "t", "true", "y", "yes"}
_REMEDY = (
    "check the network, and the package index or proxy that pip is set to use (`pip config list`); then run "
    "again: what has been fetched is kept"
)


def pip_settings(python: Path) -> dict[str, str]:
    """Return the settings that hold for `pip install` in an environment, by name: files, then PIP_* variables."""
    asked = [str(python), "-m", "pip", "--disable-pip-version-check", "config", "list"]
    listed = subprocess.run(asked, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return read_pip_settings(listed.stdout)


def read_pip_settings(listed: str) -> dict[str, str]:
    """Return name -> value from the text of `pip config list`; the later of these sections wins, as it does in pip."""
    sections: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        found = re.fullmatch(r"(global|install|:env:)\.([^=]+)=(.+)", line)
        if found:
            sections[found.group(1)][found.group(2)] = str(ast.literal_eval(found.group(3)))
    return {name: value for section in sections.values() for name, value in section.items() if value.strip()}


def uv_environment(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which uv keeps to pip's settings; what is set for uv itself wins."""
    asked = {
        _SAME_IN_UV[name]: " ".join(value.split()) for name, value in settings.items() if name in _SAME_IN_UV
    }
    for older, newer in (("UV_INDEX_URL", "UV_DEFAULT_INDEX"), ("UV_EXTRA_INDEX_URL", "UV_INDEX")):
        if older in environment:
            asked.pop(newer, None)
    # Indexes are equal for pip. Safe here, where they are not elsewhere: only files with a hash of the lock are taken.
    asked["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    # A virtual environment of a Python that is on the machine: none is fetched.
    asked["UV_PYTHON_DOWNLOADS"] = "never"
    if settings.get("no-index", "").lower() in _TRUE:
        asked["UV_NO_INDEX"] = "1"
    if "cache-dir" in settings:
        asked["UV_CACHE_DIR"] = str(Path(settings["cache-dir"]).expanduser() / "uv")
    if "subprocess" in settings.get("keyring-provider", ""):
        asked["UV_KEYRING_PROVIDER"] = "subprocess"
    # pip passes over a folder that is not there, uv stops at it.
    places = [
        place for place in settings.get("find-links", "").split() if "://" in place or Path(place).exists()
    ]
    if places:
        asked["UV_FIND_LINKS"] = ",".join(places)
    return {**asked, **environment, **_network(settings, environment)}


def _network(settings: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return proxy and certificates of pip in the variables that uv shares with other programs."""
    found: dict[str, str] = {}
    if "proxy" in settings:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            found[name] = found[name.lower()] = settings["proxy"]
    # The two variables are those that pip's own HTTP library reads.
    bundle = (
        settings.get("cert") or environment.get("REQUESTS_CA_BUNDLE") or environment.get("CURL_CA_BUNDLE")
    )
    if bundle:
        found["SSL_CERT_DIR" if Path(bundle).is_dir() else "SSL_CERT_FILE"] = bundle
    elif (
        not {"SSL_CERT_FILE", "SSL_CERT_DIR", "UV_SYSTEM_CERTS"} & environment.keys() and _has_certificates()
    ):
        found["UV_SYSTEM_CERTS"] = "true"
    return found


def _has_certificates() -> bool:
    """Whether this machine has certificates of its own, which newer pips take."""
    places = ssl.get_default_verify_paths()
    return bool(places.cafile) or (bool(places.capath) and any(Path(places.capath).iterdir()))


def install_uv(python: Path, lock: Path, log: Path) -> None:
    """Install uv of the locked version by the environment's pip, where it is not there yet."""
    uv = python.parent / "uv"
    wanted = re.search(r"^uv==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if wanted is None:
        raise SetUpError(f"{lock}: no line uv==...; `git checkout {lock.name}` brings it back")
    if _version(uv) != wanted.group(1):
        pip = [str(python), "-m", "pip", "--no-input", "--disable-pip-version-check", "install"]
        # --ignore-installed: an install that was broken off left nothing that pip could take away.
        one_file = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "--ignore-installed"]
        run([*pip, *one_file, "--requirement", str(lock)], log, _REMEDY)


def _version(uv: Path) -> str:
    """Version of a uv that runs, else empty."""
    try:
        shown = subprocess.run([str(uv), "--version"], capture_output=True, text=True).stdout
    except OSError:
        return ""
    return shown.split()[1] if shown.startswith("uv ") else ""


def broken_installs(site_packages: Path) -> Iterator[Path]:
    """Yield the .dist-info folder of each package whose files are not all there, whole.

    uv links a package's files one by one and completes its RECORD last; killed in between, it would take the
    package for installed.
    """
    for folder in sorted(site_packages.glob("*.dist-info")):
        try:
            with (folder / "RECORD").open(encoding="utf-8", newline="") as lines:
                rows = list(csv.reader(lines))
        except OSError:
            yield folder
            continue
        complete = any(row[0] == f"{folder.name}/INSTALLER" for row in rows if row)
        if not complete or not all(_is_whole(site_packages, row) for row in rows if row):
            yield folder


def _is_whole(site_packages: Path, row: list[str]) -> bool:
    """Whether a file of RECORD has its size; a compiled .pyc may be thrown away at any time."""
    path, size = row[0], row[2]
    if path.endswith(".pyc"):
        return True
    try:
        found = (site_packages / path).stat().st_size
    except OSError:
        return False
    return not size or found == int(size)


def install(python: Path, root: Path, lock: str, log: Path, show: Callable[[str], None]) -> None:
    """Install the packages of a lock file, then the checkout itself, editable.

    pyspark is published as source only: its build gets the locked setuptools and wheel, not uv's own choice.
    """
    environment = uv_environment(pip_settings(python), os.environ)
    for folder in broken_installs(_site_packages(python)):
        shutil.rmtree(folder)
    uv = str(python.parent / "uv")
    install_by_uv = [uv, "pip", "install", "--python", str(python), "--no-deps", "--no-build-isolation"]
    locked = [*install_by_uv, "--require-hashes", "--requirement"]
    run([*locked, str(root / BUILD_LOCK)], log, _REMEDY, environment)
    run([*locked, str(root / lock)], log, _REMEDY, environment, UvWatch(show))
    itself = [*install_by_uv, "--offline", "--editable", str(root)]
    run(itself, log, "could not install this checkout itself", environment)
    # What the build leaves beside the package is found before the environment's record of it, and soon older.
    shutil.rmtree(root / "lepton_etl.egg-info", ignore_errors=True)
    # pyspark's build leaves its unpacked source, 1.4 GB, in uv's cache, and where an index forbids caching, one more
    # each time. What no package needs is dropped; while another uv is at work, that is left to a later set-up.
    with contextlib.suppress(SetUpError):
        run([uv, "cache", "prune"], log, "the cache stays as it is", {**environment, "UV_LOCK_TIMEOUT": "5"})
    show("compiling")
    compile_all(python, [_site_packages(python), *(root / name for name in _OF_CHECKOUT)], log)


def compile_all(python: Path, folders: Iterable[Path], log: Path) -> None:
    """Compile the modules of the folders, as pip would and uv does for new packages only.

    Where PYTHONDONTWRITEBYTECODE is set, or the folders are not writable later, each process of each night would
    compile the thousands of modules that it imports. What does not compile, such as a template, stays as it is.
    """
    program = (
        "import compileall, sys; [compileall.compile_dir(one, quiet=2, workers=0) for one in sys.argv[1:]]"
    )
    run([str(python), "-c", program, *map(str, folders)], log, "could not compile the packages")


def _site_packages(python: Path) -> Path:
    asked = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())


class UvWatch:
    """Count in uv's output what is wanted, fetched, built and installed."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._rest = ""
        self._fetching: dict[str, str] = {}
        self._fetched: set[str] = set()
        self._building: dict[str, None] = {}
        self._wanted = ""

    def __call__(self, text: str) -> None:
        """Take what uv has printed since the last call."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._take(line)
        self._show(self.text())

    def _take(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        name = rest.split(" ")[0]
        if word == "Resolved":
            self._wanted = rest.partition(" in ")[0]
        elif word == "Downloading":
            self._fetching[name] = rest
        elif word == "Downloaded":
            self._fetched.add(name)
        elif word == "Building":
            self._building[name] = None
        elif word == "Built":
            self._building.pop(name, None)

    def text(self) -> str:
        """Return one line of where the install stands; the small packages have no lines of their own in uv's output."""
        parts = [self._wanted or "asking the package index"]
        if self._fetching:
            parts.append(f"{len(self._fetched)} of {len(self._fetching)} large ones fetched")
        waiting = [rest for name, rest in self._fetching.items() if name not in self._fetched]
        if waiting:
            parts.append(f"fetching {waiting[0]}")
        elif self._building:
            parts.append(f"building {', '.join(self._building)}")
        return ", ".join(parts)
