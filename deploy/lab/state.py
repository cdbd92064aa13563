"""Where the lab keeps its files, and the little it must remember between two commands."""

import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from deploy import ports as listening
from deploy.lab import pki
from deploy.lab.servers import Files
from deploy.lab.shell import LabError
from health import countries
from health.config import default_state_dir

HOST = "127.0.0.1"
USER = "lab"
SOCKET_PATH_MAX = 107
Port = Annotated[int, Field(ge=1, le=65535)]


class Ports(BaseModel):
    """Ports on 127.0.0.1: HAProxy's two (it has one for each country besides), the API's, the gateways', metrics'."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    http: Port = 3128
    socks: Port = 1080
    api: Port = 8080
    gateways: tuple[Port, Port]
    gateways_metrics: tuple[Port, Port]
    scorer_metrics: Port
    collector_metrics: Port
    haproxy_metrics: Port


class Memory(BaseModel):
    """What `lab up` decided. The password is the proxy user's."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    docker_host: str
    own_engine: bool
    made_blackhole: bool
    ports: Ports
    password: str


class Place:
    """The lab's directory, mode 0700. It is also the product's `state_dir`."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_state_dir() / "lab").absolute()
        self.config = self.root / "config.toml"
        self.output = self.root / "output"
        self.redis = self.root / "redis"
        self.redis_socket = self.redis / "redis.sock"
        self.haproxy_socket = self.root / "haproxy.sock"
        self.supervisor_socket = self.root / "supervisor.sock"
        self.supervisor_pid = self.root / "supervisor.pid"
        self.admin_password = self.root / "admin.password"
        self.servers = Files(self.root / "servers")
        self._memory = self.root / "lab.json"

    def make(self) -> None:
        """Make the directories. Raises LabError where the sockets' paths would be too long (unix(7): 107 bytes)."""
        if len(os.fsencode(self.supervisor_socket)) > SOCKET_PATH_MAX:
            raise LabError(f"{self.root} is too long a name for the sockets in it: choose another with --state-dir")
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for directory in (self.output, self.redis):
            directory.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def held(self) -> Iterator[None]:
        """One command at a time. Raises LabError where another one is at work."""
        self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The parent directory is what stays when the lab's own is removed.
        directory = os.open(self.root.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise LabError("another vpnexit lab command is at work: wait for it to end") from None
        finally:
            os.close(directory)

    def remember(self, memory: Memory) -> None:
        pki.write_private(self._memory, memory.model_dump_json(indent=1) + "\n")

    def recall(self) -> Memory | None:
        """What the last `lab up` decided; None where there was none since the last `lab down`.

        Raises:
            LabError: the file is there and cannot be understood.
        """
        try:
            return Memory.model_validate_json(self._memory.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise LabError(f"{self._memory} is not understood: run make lab-down, then make lab") from None


def choose_ports(http: int, socks: int, api: int) -> Ports:
    """The ports asked for, and free ones for the gateways behind HAProxy."""
    wanted = {"http": http, "socks": socks, "api": api}
    first, second, third, fourth = (listening.free(HOST) for _ in range(4))
    more = {f"{name}_metrics": listening.free(HOST) for name in ("scorer", "collector", "haproxy")}
    return Ports(**wanted, **more, gateways=(first, second), gateways_metrics=(third, fourth))


def new_password() -> str:
    return secrets.token_urlsafe(18)


def check_ports(ports: Ports, lab_countries: Iterable[str]) -> None:
    """Nobody else listens on the ports clients use. Raises LabError, which names the first one and who has it."""
    options = {ports.http: " or choose another with --port", ports.socks: " or choose another with --socks-port"}
    options[ports.api] = " or choose another with --api-port"
    for port in (*options, *(countries.port(country) for country in lab_countries)):
        fault = listening.fault(f"{HOST}:{port}")
        if fault:
            raise LabError(f"cannot listen on {HOST}:{port}: {fault}; stop that{options.get(port, '')}")
