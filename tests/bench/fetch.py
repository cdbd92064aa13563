"""Makes ready what a run needs, once: the load generator, an interpreter the product's user can run, and the peers.

All of it goes into one cache directory that every user can read (VPNEXIT_BENCH_CACHE, by default /var/tmp), nothing
into the system: Debian's packages are unpacked there, not installed, so no service starts and no port is taken.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.children import PROXY_UID, BenchError
from tests.bench.clients import Load
from tests.bench.exits import Tools
from tests.bench.peers import Peer
from tests.bench.product import ROOT

CACHE = Path(os.environ.get("VPNEXIT_BENCH_CACHE", f"/var/tmp/vpnexit-bench-{os.getuid()}"))
_DEBIAN = {"microsocks": "microsocks", "squid": "squid", "tinyproxy": "tinyproxy-bin", "danted": "dante-server"}
_DEBIAN |= {"haproxy": "haproxy"}
_PYPI = {"proxy.py": "2.4.10", "pproxy": "2.7.9", "uvloop": "0.21.0", "py-spy": "0.4.3"}
_GO = {
    "glider": ("github.com/nadoo/glider@v0.16.4", "github.com/nadoo/glider"),
    "gost": ("github.com/go-gost/gost@latest", "github.com/go-gost/gost/cmd/gost"),
}


class MissingError(Exception):
    """A peer that cannot be had here; the text says why."""


def tools() -> Tools:
    """The load generator and the interpreter. Raises BenchError."""
    _own_cache()
    with _alone():
        return Tools(python=_interpreter(), load=Load(_load()))


def peer_program(peer: Peer) -> Path:
    """Where the program of `peer` is, fetched if need be. Raises MissingError."""
    with _alone():
        if peer.program in _PYPI:
            return _pypi()
        if peer.program in _GO:
            return _go_module(peer.program)
        return _debian(peer.program)


def py_spy() -> Path:
    """A profiler that looks into a running Python. Raises MissingError."""
    with _alone():
        return _pypi().parent / "py-spy"


def peer_version(peer: Peer, program: Path) -> str:
    """Which version `peer_program` gave."""
    if peer.program in _PYPI:
        return _PYPI[peer.program]
    if peer.program in _GO:
        about = _output(["go", "version", "-m", str(program)])
        module = re.escape(_GO[peer.program][0].partition("@")[0])
        found = re.search(rf"\s{module}\s+(v\S+)", about)
        return found[1] if found else "?"
    stored = _versions() / peer.program
    if stored.exists():
        return stored.read_text()
    return _output(["dpkg-query", "-W", "-f", "${Version}", _DEBIAN[peer.program]])


def commit(tree: Path) -> str:
    """Which commit a checkout is at; empty outside git."""
    return _output(["git", "-C", str(tree), "rev-parse", "--short", "HEAD"])


def environment() -> dict[str, str]:
    """What unpacked programs need to find their libraries."""
    library = CACHE / "debian/usr/lib"
    folders = [str(folder) for folder in library.glob("*-linux-gnu*")]
    return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join(folders), "PYTHONDONTWRITEBYTECODE": "1"}


def _own_cache() -> None:
    CACHE.mkdir(mode=0o755, exist_ok=True)
    there = CACHE.lstat()
    if there.st_uid != os.getuid() or not stat.S_ISDIR(there.st_mode) or there.st_mode & 0o022:
        raise BenchError(f"{CACHE} belongs to somebody else: remove it, or name another in VPNEXIT_BENCH_CACHE")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two runs at once do not fetch the same thing twice: the second waits, and finds it there."""
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _load() -> Path:
    source = Path(__file__).parent / "load"
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(source.glob("*.go"))))
    program = CACHE / f"load-{digest.hexdigest()[:12]}"
    if not program.exists():
        _go("build", "-o", str(program), ".", directory=source, fault=BenchError)
    return program


def _interpreter() -> Path:
    """Ours, where the product's user can run it; else a venv of the system's Python with the same locked packages."""
    if _runs(Path(sys.executable)):
        return Path(sys.executable)
    lock = ROOT / "requirements.lock"
    wanted = hashlib.sha256(lock.read_bytes()).hexdigest()
    python, stamp = CACHE / "venv/bin/python", CACHE / "venv/.lock"
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    _venv(CACHE / "venv", ["--require-hashes", "-r", str(lock)], BenchError)
    if not _runs(python):
        raise BenchError(f"user {PROXY_UID} can run neither {sys.executable} nor {python}")
    stamp.write_text(wanted)
    return python


def _runs(python: Path) -> bool:
    try:
        done = subprocess.run(
            [python, "-P", "-c", "import uvloop, structlog, gateway.config, health.agent.agent"],
            user=PROXY_UID,
            group=PROXY_UID,
            extra_groups=[],
            env={"PYTHONPATH": str(ROOT), "HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            capture_output=True,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def _venv(where: Path, packages: Sequence[str], fault: type[Exception]) -> None:
    base = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or sys.executable
    _run([base, "-m", "venv", "--clear", str(where)], fault)
    _run([str(where / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", *packages], fault)


def _pypi() -> Path:
    python, stamp = CACHE / "pypi/bin/python", CACHE / "pypi/.packages"
    wanted = [f"{name}=={version}" for name, version in _PYPI.items()]
    if not stamp.exists() or stamp.read_text() != " ".join(wanted):
        _venv(CACHE / "pypi", wanted, MissingError)
        stamp.write_text(" ".join(wanted))
    return python


def _debian(program: str) -> Path:
    system = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if system:
        return Path(system)
    unpacked = CACHE / "debian"
    for folder in ("usr/sbin", "usr/bin"):
        if (unpacked / folder / program).exists():
            return unpacked / folder / program
    if not shutil.which("apt-get"):
        raise MissingError("not installed, and there is no apt-get to fetch it with")
    archives = CACHE / "archives"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    command = ["apt-get", "install", "--yes", "--download-only", "--no-install-recommends", "--no-upgrade"]
    _run([*command, "-o", f"Dir::Cache::archives={archives}", _DEBIAN[program]], MissingError)
    _versions().mkdir(parents=True, exist_ok=True)
    for package in archives.glob("*.deb"):
        if package.name.startswith(f"{_DEBIAN[program]}_"):
            (_versions() / program).write_text(_output(["dpkg-deb", "--field", str(package), "Version"]))
        if not package.name.startswith(("perl", "libperl")):
            _run(["dpkg-deb", "--extract", str(package), str(unpacked)], MissingError)
        package.unlink()
    return _debian(program)


def _go_module(name: str) -> Path:
    program = CACHE / "go" / name
    if program.exists():
        return program
    version, package = _GO[name]
    module = CACHE / "go" / f"{name}-build"
    shutil.rmtree(module, ignore_errors=True)
    module.mkdir(parents=True)
    _go("mod", "init", "build", directory=module, fault=MissingError)
    if version.endswith("@latest"):
        _go("get", version, directory=module, fault=MissingError)
    else:
        # A look-up of other versions is not needed for a fixed one, and not every mirror answers it.
        _go("mod", "edit", f"-require={version}", directory=module, fault=MissingError)
    _go("build", "-mod=mod", "-o", str(program), package, directory=module, fault=MissingError)
    return program


def _go(*words: str, directory: Path, fault: type[Exception]) -> None:
    go = shutil.which("go", path=f"{os.environ['PATH']}:/usr/local/go/bin")
    if go is None:
        raise fault("no Go toolchain here: install Go 1.22 or newer, for example with `apt install golang-go`")
    folders = {"GOPATH": str(CACHE / "go/path"), "GOCACHE": str(CACHE / "go/cache")}
    environment = {**os.environ, **folders, "GOFLAGS": "-buildvcs=false -modcacherw", "CGO_ENABLED": "0"}
    _run([go, *words], fault, cwd=directory, env=environment)


def _versions() -> Path:
    return CACHE / "versions"


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return "?"


def _run(command: Sequence[str], fault: type[Exception], **options: object) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise fault(f"`{' '.join(command[:4])} …` failed: {' '.join(last)[:300]}")


def machine() -> dict[str, str]:
    """What the figures were taken on."""
    cpu = "?"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(":")[2].strip()
            break
    memory = int(Path("/proc/meminfo").read_text().split()[1]) // 1024 // 1024
    return {
        "CPU": f"{cpu}, {os.cpu_count()} cores",
        "memory": f"{memory} GiB",
        "kernel": platform.release(),
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "Python": _output([str(tools().python), "-c", "import platform; print(platform.python_version())"]),
    }
