"""Make the lock files again from setup.cfg, by the locked uv. Pins stay unless they no longer fit.

    make lock                    after a change of setup.cfg or of a .in file
    make lock UPGRADE=numpy      and the newest numpy that fits
    make lock UPGRADE=all        and the newest of everything

Needs no environment that is set up already: a lock that cannot be installed can be made anew.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from locked_packages import (
    BUILD_LOCK,
    DEVELOPER_LOCK,
    USER_LOCK,
    UV_LOCK,
    install_uv,
    pip_settings,
    uv_environment,
)
from machine import SetUpError, run, stand_alone
from set_up import LOCK, LOG, PYTHON, ROOT, make_venv

# Each lock file, what it is made from, and the lock whose pins it takes over.
LOCKS = (
    (UV_LOCK, ["requirements-uv.in"]),
    (BUILD_LOCK, ["requirements-build.in"]),
    (USER_LOCK, ["setup.cfg", "--constraint", BUILD_LOCK]),
    (DEVELOPER_LOCK, ["setup.cfg", "--extra", "dev", "--constraint", USER_LOCK]),
)


def main() -> int:
    """Write the four files; 1 when they cannot be resolved together."""
    parser = argparse.ArgumentParser(description="Make the lock files again.")
    parser.add_argument("--upgrade", metavar="PACKAGE", help="a package, or all")
    asked = parser.parse_args().upgrade
    upgrade = [] if asked is None else ["--upgrade"] if asked == "all" else ["--upgrade-package", asked]
    os.chdir(ROOT)
    try:
        with stand_alone(LOCK):
            make_venv()
            install_uv(PYTHON, ROOT / UV_LOCK, LOG)
            compile_locks(upgrade)
    except SetUpError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def compile_locks(upgrade: list[str]) -> None:
    """Resolve each lock file anew. Raises SetUpError with uv's words where the bounds contradict each other."""
    environment = uv_environment(pip_settings(PYTHON), os.environ)
    # Named by one version and valid for all later ones: markers say which package which Python takes.
    compile_lock = [str(PYTHON.parent / "uv"), "pip", "compile", "--quiet", "--python", str(PYTHON), *upgrade]
    compile_lock += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header"]
    for lock, made_from in LOCKS:
        remedy = f"{lock} was not made: change the bound in setup.cfg that uv names, or UPGRADE= what it pins"
        # uv prefers the pins of the file that it writes. The developers' lock has every pin there is: so one stays
        # when its package moves from the tools to what runs need. The lock itself is replaced when all is well.
        new = LOG.parent / lock
        shutil.copy(DEVELOPER_LOCK if lock == USER_LOCK else lock, new)
        run([*compile_lock, *made_from, "--output-file", str(new)], LOG, remedy, environment)
        new.replace(lock)


if __name__ == "__main__":
    raise SystemExit(main())
