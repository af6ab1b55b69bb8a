"""Set-up: its words on machines that lack something, who installs, and how it goes on when it was broken off."""

from __future__ import annotations

import base64
import hashlib
import importlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("machine")


def fake_java(home: Path, version: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2025-01-01' >&2\n", encoding="utf-8")
    java.chmod(0o755)
    return home


@pytest.fixture
def set_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The set-up script, with its environment and log in a scratch folder."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module = importlib.import_module("set_up")
    monkeypatch.chdir(tmp_path)
    places = {
        "VENV": ".venv",
        "PYTHON": ".venv/bin/python",
        "MADE": ".venv/made",
        "JAVA_HOME_FILE": ".venv/java",
    }
    places |= {"LOG": "var/log", "LOCK": "var/lock", "IVY": "var/ivy"}
    for name, place in places.items():
        monkeypatch.setattr(module, name, tmp_path / place)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    return module


@pytest.fixture
def locked_packages(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("locked_packages")


@pytest.mark.parametrize(
    ("shown", "major"), [("17.0.15", 17), ("21", 21), ("1.8.0_402", 8), ("25-ea", 25), ("11.0.2", 11)]
)
def test_java_versions_are_read(machine: ModuleType, tmp_path: Path, shown: str, major: int) -> None:
    assert machine.java_version(fake_java(tmp_path, shown) / "bin" / "java") == major


def test_java_home_wins_over_path_unless_too_old(
    machine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = fake_java(tmp_path / "old", "11.0.2"), fake_java(tmp_path / "new", "21.0.1")
    monkeypatch.setenv("PATH", f"{new}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JAVA_HOME", str(old))
    assert machine.find_java() == new
    monkeypatch.setenv("JAVA_HOME", str(fake_java(tmp_path / "other", "17.0.1")))
    assert machine.find_java() == tmp_path / "other"


def test_a_failed_command_shows_its_last_lines_and_the_remedy(machine: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('asking the network'); raise SystemExit(1)"]
    with pytest.raises(machine.SetUpError, match=r"(?s)asking the network.*check the network"):
        machine.run(command, tmp_path / "log", "check the network")


def test_a_full_disk_is_not_taken_for_the_network(machine: ModuleType, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "open('/dev/full', 'wb', 0).write(b'1')"]
    with pytest.raises(machine.SetUpError, match=r"the disk is full: make room") as refused:
        machine.run(command, tmp_path / "log", "check the network")
    assert "check the network" not in str(refused.value)


def test_apt_is_not_asked_where_it_would_need_a_password(
    machine: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = tmp_path / "called"
    for name, script in {"apt-get": f"touch {called}", "sudo": "exit 1"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert machine.apt_install(["openjdk-17-jre-headless"], tmp_path / "log") is False
    assert not called.exists()


def test_an_environment_copied_from_elsewhere_does_not_fit(set_up: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    set_up.MADE.write_text("/elsewhere/.venv\n", encoding="utf-8")
    assert not set_up.venv_fits()
    set_up.MADE.write_text(f"{tmp_path}/.venv\n", encoding="utf-8")
    assert set_up.venv_fits()


def test_an_environment_broken_off_half_made_does_not_fit(set_up: ModuleType, tmp_path: Path) -> None:
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    assert not set_up.venv_fits()


def test_a_failed_step_is_named_and_leaves_no_stamp(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []

    def refuse(_: object) -> None:
        raise set_up.SetUpError("no route to the registry; check the network")

    steps = (
        ("first", lambda _: done.append(1)),
        ("locked packages", refuse),
        ("later", lambda _: done.append(3)),
    )
    monkeypatch.setattr(set_up, "steps_of", lambda _: steps)
    assert set_up.main([]) == 1
    assert done == [1]
    said = capsys.readouterr()
    assert "set-up failed at 'locked packages':\nno route to the registry" in said.err
    assert "set-up 2/3: locked packages ..." in said.out
    assert not set_up.USER.stamp.exists()


@pytest.fixture
def whole(set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The set-up on a machine that has a Java and the jars."""
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    home = fake_java(tmp_path / "java", "17.0.1")
    set_up.JAVA_HOME_FILE.write_text(f"{home}\n", encoding="utf-8")
    monkeypatch.setattr(set_up, "wrong_jars", list)
    return set_up


@pytest.fixture
def locks_installed(whole: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lock files in the order in which set-up has installed them; nothing is installed in fact."""
    done: list[str] = []
    monkeypatch.setattr(whole, "steps_of", lambda level: (("packages", lambda _: done.append(level.lock)),))
    return done


def test_developers_add_their_tools_to_the_users_set_up(
    whole: ModuleType, locks_installed: list[str]
) -> None:
    calls: list[list[str]] = [[], [], ["--dev"], ["--dev"], []]
    assert [whole.main(arguments) for arguments in calls] == [0] * 5
    assert locks_installed == ["requirements.lock", "requirements-dev.lock"]


def test_a_set_up_for_developers_serves_users(whole: ModuleType, locks_installed: list[str]) -> None:
    assert [whole.main(["--dev"]), whole.main([])] == [0, 0]
    assert locks_installed == ["requirements-dev.lock"]


def test_what_runs_already_is_not_tried_again(whole: ModuleType) -> None:
    names = [name for name, _ in whole.steps_of(whole.DEVELOPER)]
    assert names[-1] == "a first Delta table"
    whole.USER.stamp.write_text(whole.USER.wanted_stamp(), encoding="utf-8")
    assert [name for name, _ in whole.steps_of(whole.DEVELOPER)] == names[:3]


def test_a_changed_jar_is_found(set_up: ModuleType, tmp_path: Path) -> None:
    jars = tmp_path / "var" / "ivy" / "jars"
    jars.mkdir(parents=True)
    (jars / "io.delta_delta-storage-4.4.0.jar").write_bytes(b"not what was reviewed")
    assert "io.delta_delta-storage-4.4.0.jar" in set_up.wrong_jars()


@pytest.mark.parametrize(
    ("name", "users_too"),
    [
        ("requirements.lock", True),
        ("requirements-uv.lock", True),
        ("setup.cfg", True),
        ("requirements-dev.lock", False),
    ],
)
def test_a_change_of_the_lock_sets_up_again(
    set_up: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, users_too: bool
) -> None:
    monkeypatch.setattr(set_up, "ROOT", tmp_path)
    user, developer = set_up.USER.wanted_stamp(), set_up.DEVELOPER.wanted_stamp()
    (tmp_path / name).write_text("numpy==2.4.6\n", encoding="utf-8")
    assert set_up.DEVELOPER.wanted_stamp() != developer
    assert (set_up.USER.wanted_stamp() != user) is users_too


def test_a_set_up_waits_for_what_a_killed_one_left_running(tmp_path: Path) -> None:
    """Its command holds the lock on: two installs into one environment would spoil it."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from pathlib import Path
from machine import run, stand_alone
with stand_alone(Path("lock")):
    run([sys.executable, "-c", sys.argv[1]], Path("log"), "")
"""
    command = [sys.executable, "-c", program]
    lasting = "print('at work', flush=True); import time; time.sleep(2)"
    first = subprocess.Popen([*command, lasting], cwd=tmp_path)
    log = tmp_path / "log"
    while not (log.exists() and "\nat work\n" in log.read_text(encoding="utf-8")):
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    killed = time.monotonic()
    second = subprocess.run([*command, "pass"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "another one is at work here" in second.stdout
    assert time.monotonic() - killed > 1.0


# --- who installs -----------------------------------------------------------------------------------------------------


def fake_environment(folder: Path) -> Path:
    """A python that notes how its pip is called, and whose pip brings a uv that does the same."""
    (folder / "bin").mkdir(parents=True)
    calls = folder / "calls"
    programs = {
        folder
        / "uv": f"""if [ "$1" = --version ]; then echo "uv 0.13.9"; else echo "uv $*" >> {calls}; fi""",
        folder / "bin" / "python": f"""case "$*" in
  *sysconfig*) echo {folder}/site-packages ;;
  *"config list"*) echo "global.index-url='https://packages.example/simple'" ;;
  *"pip "*install*) echo "python $*" >> {calls}; cp {folder}/uv {folder}/bin/uv ;;
esac""",
    }
    for program, text in programs.items():
        program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        program.chmod(0o755)
    return folder / "bin" / "python"


def test_pip_installs_uv_alone_and_uv_all_else(locked_packages: ModuleType, tmp_path: Path) -> None:
    python = fake_environment(tmp_path / "venv")
    lock, log = tmp_path / "requirements-uv.lock", tmp_path / "log"
    lock.write_text("uv==0.13.9 \\\n    --hash=sha256:00\n", encoding="utf-8")
    for _ in range(2):
        locked_packages.install_uv(python, lock, log)
        locked_packages.install(python, tmp_path, "requirements.lock", log, lambda _: None)
    calls = (tmp_path / "venv" / "calls").read_text(encoding="utf-8").splitlines()
    by_uv = [call for call in calls if call.startswith("uv ")]
    (by_pip,) = [call for call in calls if call not in by_uv]
    assert by_pip.endswith(f" --requirement {lock}")
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(by_pip.split())
    locked = [call for call in by_uv if "--requirement" in call]
    files = ["requirements-build.lock", "requirements.lock"] * 2
    assert [call.split("--requirement ")[1] for call in locked] == [str(tmp_path / name) for name in files]
    assert all({"--require-hashes", "--no-deps"} <= set(call.split()) for call in locked)
    itself, pruned, *again = [call for call in by_uv if call not in locked]
    assert [itself, pruned] == again
    assert pruned == "uv cache prune"
    assert itself.endswith(f"--no-deps --no-build-isolation --offline --editable {tmp_path}")


def test_a_uv_of_another_version_is_replaced(locked_packages: ModuleType, tmp_path: Path) -> None:
    python = fake_environment(tmp_path / "venv")
    lock = tmp_path / "requirements-uv.lock"
    for version in ("0.13.9", "0.13.9", "0.13.10"):
        lock.write_text(f"uv=={version} \\\n    --hash=sha256:00\n", encoding="utf-8")
        locked_packages.install_uv(python, lock, tmp_path / "log")
    assert len((tmp_path / "venv" / "calls").read_text(encoding="utf-8").splitlines()) == 2


def test_modules_are_compiled_and_what_is_none_stays(
    locked_packages: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").write_text("VALUE = 1\n", encoding="utf-8")
    (tmp_path / "package" / "template.py").write_text("{{ name }} = 1 {{\n", encoding="utf-8")
    locked_packages.compile_all(Path(sys.executable), [tmp_path / "package"], tmp_path / "log")
    (compiled,) = (tmp_path / "package" / "__pycache__").iterdir()
    assert compiled.name.startswith("module.")


def test_this_environment_was_installed_by_uv() -> None:
    """Whatever pip its Python brought, that one installed nothing but uv."""
    by = {
        found.name.lower(): (found.read_text("INSTALLER") or "").strip() for found in metadata.distributions()
    }
    assert by["pyspark"] == "uv"
    assert {name for name, installer in by.items() if installer != "uv"} <= {"pip", "uv"}


# --- a site's own index, proxy and certificates -----------------------------------------------------------------------


def test_pip_settings_are_read_with_pips_own_precedence(locked_packages: ModuleType) -> None:
    listed = r"""
:env:.index-url='https://of-the-variable.example/simple'
global.index-url='https://of-the-file.example/simple'
global.timeout='60'
install.timeout='90'
download.timeout='1'
global.trusted-host='\na.example\nb.example'
global.proxy=''
"""
    assert locked_packages.read_pip_settings(listed) == {
        "index-url": "https://of-the-variable.example/simple",
        "timeout": "90",
        "trusted-host": "\na.example\nb.example",
    }


def test_uv_is_told_what_pip_is_set_to(locked_packages: ModuleType, tmp_path: Path) -> None:
    settings = {
        "index-url": "https://packages.example/simple",
        "extra-index-url": "https://a.example/simple\nhttps://b.example/simple",
        "find-links": f"{tmp_path} {tmp_path}/absent https://wheels.example/",
        "trusted-host": "a.example b.example",
        "cert": "/etc/site.pem",
        "client-cert": "/etc/client.pem",
        "proxy": "proxy.example:3128",
        "default-timeout": "180",
        "no-index": "false",
    }
    around = {"HOME": "/home/someone", "SSL_CERT_FILE": "/etc/other.pem", "HTTPS_PROXY": "other.example"}
    assert locked_packages.uv_environment(settings, around) == {
        "HOME": "/home/someone",
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"{tmp_path},https://wheels.example/",
        "UV_INSECURE_HOST": "a.example b.example",
        "UV_HTTP_TIMEOUT": "180",
        "UV_PYTHON_DOWNLOADS": "never",
        "SSL_CERT_FILE": "/etc/site.pem",
        "SSL_CLIENT_CERT": "/etc/client.pem",
        "HTTP_PROXY": "proxy.example:3128",
        "http_proxy": "proxy.example:3128",
        "HTTPS_PROXY": "proxy.example:3128",
        "https_proxy": "proxy.example:3128",
    }


def test_what_is_set_for_uv_itself_wins(locked_packages: ModuleType) -> None:
    own = {
        "UV_INDEX_URL": "https://own.example/simple",
        "UV_HTTP_TIMEOUT": "5",
        "SSL_CERT_FILE": "/etc/own.pem",
    }
    settings = {"index-url": "https://packages.example/simple", "timeout": "60"}
    found = locked_packages.uv_environment(settings, own)
    assert found.items() >= own.items()
    assert "UV_DEFAULT_INDEX" not in found


def test_without_an_index_only_folders_count(locked_packages: ModuleType) -> None:
    assert locked_packages.uv_environment({"no-index": "yes"}, {})["UV_NO_INDEX"] == "1"


@pytest.fixture
def proxy() -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """A proxy on loopback that answers for any host: its address, what it serves, what it was asked for."""
    pages: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            page = pages.get(self.path)
            self.send_response(404 if page is None else 200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page or b"")

        def do_HEAD(self) -> None:
            self.send_response(405)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", pages, asked
    server.shutdown()
    server.server_close()


def tiny_wheel(name: str, further: str = "") -> tuple[bytes, str]:
    """A wheel of one module, with further lines of metadata, and its SHA-256."""
    folder = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": b"",
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{further}".encode(),
        f"{folder}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [f"{folder}/RECORD,,"]
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(content)}")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, content in (files | {f"{folder}/RECORD": "\n".join(rows).encode()}).items():
            archive.writestr(path, content)
    return packed.getvalue(), hashlib.sha256(packed.getvalue()).hexdigest()


def test_a_sites_index_and_proxy_hold_for_uv(
    locked_packages: ModuleType, tmp_path: Path, proxy: tuple[str, dict[str, bytes], list[str]]
) -> None:
    """The real uv, told what the real pip reads in a pip.conf, asks the site's index through the site's proxy."""
    address, pages, asked = proxy
    wheel, digest = tiny_wheel("watts")
    index, name = "http://packages.example/simple", "watts-1.0-py3-none-any.whl"
    pages[f"{index}/watts/"] = f'<a href="{name}#sha256={digest}">{name}</a>'.encode()
    pages[f"{index}/watts/{name}"] = wheel
    settings, lock = tmp_path / "pip.conf", tmp_path / "requirements.lock"
    settings.write_text(f"[global]\nindex-url = {index}\nproxy = {address}\n", encoding="utf-8")
    lock.write_text(f"watts==1.0 --hash=sha256:{digest}\n", encoding="utf-8")
    not_its_own = ("PIP_", "UV_", "NO_PROXY", "no_proxy")
    around = {key: value for key, value in os.environ.items() if not key.startswith(not_its_own)}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env=around | {"PIP_CONFIG_FILE": str(settings)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = locked_packages.uv_environment(locked_packages.read_pip_settings(listed.stdout), around)
    uv = str(Path(sys.executable).parent / "uv")
    target = ["--target", str(tmp_path / "site"), "--requirement", str(lock)]
    subprocess.run(
        [uv, "pip", "install", "--no-deps", "--require-hashes", *target],
        env=told | {"UV_CACHE_DIR": str(tmp_path / "cache")},
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "site" / "watts.py").is_file()
    assert set(pages) <= set(asked)


# --- broken off -------------------------------------------------------------------------------------------------------


def installed(site_packages: Path, name: str, *, complete: bool = True) -> Path:
    """A package as an installer leaves it, or as it stands before the installer's last step."""
    folder = site_packages / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    (site_packages / f"{name}.py").write_text("x = 1\n", encoding="utf-8")
    rows = [f"{name}.py,sha256=00,6", f"__pycache__/{name}.cpython-311.pyc,,", f"{folder.name}/RECORD,,"]
    if complete:
        (folder / "INSTALLER").write_text("uv", encoding="utf-8")
        rows.append(f"{folder.name}/INSTALLER,sha256=00,2")
    (folder / "RECORD").write_text("\n".join([*rows, ""]), encoding="utf-8")
    return folder


def test_packages_that_a_kill_left_half_installed_are_found(
    locked_packages: ModuleType, tmp_path: Path
) -> None:
    installed(tmp_path, "whole")
    unfinished = installed(tmp_path, "unfinished", complete=False)
    cut = installed(tmp_path, "cut")
    (tmp_path / "cut.py").write_text("x", encoding="utf-8")
    lost = installed(tmp_path, "lost")
    (tmp_path / "lost.py").unlink()
    bare = tmp_path / "bare-1.0.dist-info"
    bare.mkdir()
    assert set(locked_packages.broken_installs(tmp_path)) == {unfinished, cut, lost, bare}


def test_this_environment_is_whole(locked_packages: ModuleType) -> None:
    (site_packages,) = [path for path in sys.path if path.endswith("site-packages")]
    assert list(locked_packages.broken_installs(Path(site_packages))) == []


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_it_is_shown_how_far_the_packages_are(locked_packages: ModuleType) -> None:
    shown: list[str] = []
    watch = locked_packages.UvWatch(shown.append)
    watch("Resolved 138 packa")
    watch("ges in 857ms\nDownloading polars (51.4MiB)\nDownloading pillow (6.8MiB)\n")
    watch("   Building pyspark==4.1.4\n Downloaded polars\n")
    watch(" Downloaded pillow\n")
    assert shown == [
        "asking the package index",
        "138 packages, 0 of 2 large ones fetched, fetching polars (51.4MiB)",
        "138 packages, 1 of 2 large ones fetched, fetching pillow (6.8MiB)",
        "138 packages, 2 of 2 large ones fetched, building pyspark==4.1.4",
    ]


def test_without_a_terminal_a_line_comes_now_and_then(
    machine: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, clock = io.StringIO(), iter([0.0, 1.0, 14.9, 15.1, 16.0, 20.0])
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(clock))
    progress = machine.Progress("set-up 3/6: locked packages", out)
    for text in ("a", "b", "c", "d"):
        progress.show(text)
    progress.close("done")
    assert out.getvalue() == "set-up 3/6: locked packages ...\n  15 s  c\n  done in 20 s\n"


def test_a_command_is_watched_while_it_runs(machine: ModuleType, tmp_path: Path) -> None:
    seen: list[str] = []
    command = [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(0.7); print(2)"]
    machine.run(command, tmp_path / "log", "", watch=seen.append)
    assert "".join(seen) == "1\n2\n"
    assert "1\n" in seen
