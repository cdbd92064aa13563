"""Compiles what a gateway's workers do for every connection (mypyc), from the same source.

    python -m deploy.compile

Needs a C compiler and Python's headers. Does nothing where a compiled copy of this very source is there already;
`gateway.compiled` says where that is and when it is run.
"""

import fcntl
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gateway import compiled

# What runs for every connection. Nothing that waits: mypyc gets exceptions in coroutines wrong now and then, and what
# waits gains little. Not `links` and what it stands on, which others inherit from.
MODULES = (
    "account", "balance", "bucket", "connection_log", "deadlines", "dial", "dialled", "front", "http_session",
    "identity", "listener", "metrics", "pipes", "poller", "relay", "roster", "session", "socks_session", "worker",
    "wire/base", "wire/http_body", "wire/http_connect", "wire/http_head", "wire/http_reply", "wire/http_rules",
    "wire/sniff", "wire/socks", "wire/socks4",
)  # fmt: skip
_BUILD = """
import sys
from mypyc.build import mypycify
from setuptools import setup
lib, temp, *paths = sys.argv[1:]
extensions = mypycify(paths, opt_level="3", debug_level="0", target_dir=temp)
setup(name="gateway", packages=[], ext_modules=extensions,
      script_args=["--quiet", "build_ext", "--build-lib", lib, "--build-temp", temp])
"""


class CompileError(Exception):
    """It could not be compiled; the text says why."""


def make(root: Path = compiled.ROOT) -> Path:
    """Compile the source under `root`; returns the directory of the copy. Raises CompileError."""
    holder = root / compiled.HOLDER
    holder.mkdir(exist_ok=True)
    with (holder / "lock").open("w") as lock:  # two at once: the second waits, and finds it there
        fcntl.flock(lock, fcntl.LOCK_EX)
        target = compiled.place(root)
        if not target.is_dir():
            _make(root, target)
    return target


def _make(root: Path, target: Path) -> None:
    for old in target.parent.iterdir():
        if old.is_dir():
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        copy = Path(scratch, "copy")
        shutil.copytree(root / "gateway", copy / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
        _build(root, copy, Path(scratch, "build"))
        copy.rename(target)


def _build(root: Path, lib: Path, temp: Path) -> None:
    paths = [f"gateway/{module}.py" for module in MODULES]
    command = [sys.executable, "-c", _BUILD, str(lib), str(temp), *paths]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompileError((done.stderr + done.stdout).strip()[-2000:])


def main() -> int:
    """Returns the exit status."""
    if not compiled.find():
        print("vpnexit: compiling the gateway (once for this source, about a minute)", file=sys.stderr)
    try:
        make()
    except (CompileError, OSError) as error:
        print(f"vpnexit: {error}", file=sys.stderr)
        print("vpnexit: not compiled: are gcc and Python's headers (python3-dev) installed?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
