"""A Docker Engine for the lab: one that answers already, else a private one of our own.

The private `dockerd` shares nothing with any other: data root, exec root, socket and pid file are its own, its address
pool lies in 198.18.0.0/15, it has no default bridge, and it leaves this machine's iptables alone (`hostnet` keeps the
lab's bridges closed). `live-restore` keeps the exits running while it restarts.
"""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.lab import hostnet, packages
from deploy.lab.shell import LabError, run

RUN_DIR = Path("/run/vpnexit-lab")
OWN_SOCKET = RUN_DIR / "docker.sock"
DEFAULT_SOCKET = Path("/var/run/docker.sock")
POOL = "base=198.18.128.0/17,size=24"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that answers. `own` says that the lab started it and will remove it."""

    host: str
    own: bool

    def docker(self, *arguments: str | os.PathLike[str], timeout: float = 60.0, stdin: str | None = None) -> str:
        """Run the Docker client against this engine. Raises LabError."""
        return run(["docker", *arguments], timeout=timeout, stdin=stdin, env={"DOCKER_HOST": self.host})

    def last_words(self, container: str) -> str:
        """The last line that a container wrote."""
        return run(
            ["/bin/sh", "-c", 'docker logs --tail 1 "$1" 2>&1', "sh", container], env={"DOCKER_HOST": self.host}
        ).strip()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=5.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def answers(path: Path) -> bool:
    """Whether a Docker Engine answers on this socket (GET /_ping) within 5 s."""
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def find() -> Engine | None:
    """The lab's own engine if it runs, else the one `DOCKER_HOST` names, else the machine's.

    Raises:
        LabError: DOCKER_HOST names an engine that the lab cannot use.
    """
    if answers(OWN_SOCKET):
        return Engine(f"unix://{OWN_SOCKET}", own=True)
    wanted = os.environ.get("DOCKER_HOST", "")
    if wanted:
        if not wanted.startswith("unix://"):
            raise LabError(
                f"DOCKER_HOST={wanted}: the lab needs an engine on this machine (unix://…); unset DOCKER_HOST"
            )
        if not answers(Path(wanted.removeprefix("unix://"))):
            raise LabError(f"DOCKER_HOST={wanted} does not answer: start that engine, or unset DOCKER_HOST")
        return Engine(wanted, own=False)
    return Engine(f"unix://{DEFAULT_SOCKET}", own=False) if answers(DEFAULT_SOCKET) else None


def ensure(state: Path) -> Engine:
    """An engine that answers; started here if there is none. `state` is where a private one keeps its data.

    Raises:
        LabError: there is none and none can be started; the text says what to do.
    """
    found = find()
    if found is not None:
        packages.ensure({"docker": "docker-cli"}, "the lab")
        return found
    if not packages.is_debian():
        raise LabError("no Docker Engine answers, and the lab starts its own on Debian only: start one")
    packages.ensure(packages.ENGINE, "the lab's own Docker Engine")
    return start(state)


def again(host: str, own: bool, state: Path) -> Engine:
    """The engine that the lab runs on already; its own is started if it ended. Raises LabError."""
    if own:
        return start(state)
    if not answers(Path(host.removeprefix("unix://"))):
        raise LabError(f"the Docker Engine {host} that the lab runs on does not answer: start it, or run make lab-down")
    return Engine(host, own=False)


def restart_for_removal(state: Path) -> Engine | None:
    """The lab's own engine, started once more if it ended badly and left something to remove; None if there is none."""
    if answers(OWN_SOCKET):
        return Engine(f"unix://{OWN_SOCKET}", own=True)
    if _data_root(state).exists():
        with contextlib.suppress(LabError):
            return start(state)
    return None


def start(state: Path) -> Engine:
    """The lab's own engine, running; containers that went on without it are found again. Raises LabError."""
    if not answers(OWN_SOCKET):
        _start(state)
    return Engine(f"unix://{OWN_SOCKET}", own=True)


def stop(state: Path) -> None:
    """Stop the lab's own dockerd, if it runs; containers go on (`live-restore`)."""
    pid = _pid(state)
    if pid:
        os.kill(pid, signal.SIGTERM)
        if not _gone(pid, STOP_TIMEOUT_S):
            os.kill(pid, signal.SIGKILL)
            _gone(pid, STOP_TIMEOUT_S)


def clear(engine: Engine) -> None:
    """Remove every container and network of an engine of the lab's own."""
    containers = engine.docker("ps", "--all", "--quiet").split()
    if containers:
        engine.docker("rm", "--force", "--volumes", *containers)
    engine.docker("network", "prune", "--force")


def remove(state: Path) -> None:
    """Stop the lab's own engine and delete everything it kept. Its containers must be gone."""
    stop(state)
    _end_leftovers()
    hostnet.restore_switches(RUN_DIR / "switches.json")
    roots = (_data_root(state), RUN_DIR)
    _unmount_below(*roots)
    for root in roots:
        shutil.rmtree(root, ignore_errors=True)


def _start(state: Path) -> None:
    RUN_DIR.mkdir(mode=0o700, exist_ok=True)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    hostnet.remember_switches(RUN_DIR / "switches.json")
    options = {
        "--data-root": _data_root(state),
        "--exec-root": RUN_DIR / "exec",
        "--pidfile": RUN_DIR / "docker.pid",
        "--host": f"unix://{OWN_SOCKET}",
        "--config-file": _empty_config(),
        "--default-address-pool": POOL,
        "--bridge": "none",
        "--iptables": "false",
        "--ip6tables": "false",
        "--live-restore": "true",
    }
    log = state / "dockerd.log"
    with log.open("ab") as output:
        daemon = subprocess.Popen(
            ["dockerd", *(f"{name}={value}" for name, value in options.items())],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(OWN_SOCKET):
        if daemon.poll() is not None or time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                daemon.kill()
            daemon.wait()
            raise LabError(f"dockerd did not start: see {log}")
        time.sleep(0.1)


def _empty_config() -> Path:
    # The machine's /etc/docker/daemon.json is meant for another daemon and may contradict these options.
    path = RUN_DIR / "daemon.json"
    path.write_text("{}\n")
    return path


def _data_root(state: Path) -> Path:
    return state / "docker"


def _pid(state: Path) -> int:
    """The process id of the lab's own dockerd, or 0; a reused number is not taken for it."""
    try:
        pid = int((RUN_DIR / "docker.pid").read_text())
        command = Path("/proc", str(pid), "cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    return pid if os.fsencode(_data_root(state)) in command else 0


def _gone(pid: int, timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        # A daemon that this very process started stays a zombie until it is waited for.
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return True
        if not Path("/proc", str(pid)).exists():
            return True
        time.sleep(0.05)
    return False


def _end_leftovers() -> None:
    """End containerd and shims that outlived their daemon: those of our exec root, as this mount namespace sees it."""
    mark = os.fsencode(RUN_DIR / "exec")
    ours = os.readlink("/proc/self/ns/mnt")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in (entry / "cmdline").read_bytes() and os.readlink(entry / "ns" / "mnt") == ours:
                    os.kill(int(entry.name), signal.SIGKILL)
                    _gone(int(entry.name), 5.0)


def _unmount_below(*roots: Path) -> None:
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted(mounted, key=len, reverse=True):
        path = Path(point.encode().decode("unicode_escape"))
        if any(root == path or root in path.parents for root in roots):
            with contextlib.suppress(LabError):
                run(["umount", "--lazy", path])
