"""The proxies beside ours in one run: how each is started in its cheap mode, and what it says its version is.

Cheap mode: no authentication (except where a second entry says so), no access log, one process or thread where the
program lets one choose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy import ports
from tests.bench.children import PROXY_UID, Child, listens
from tests.bench.clients import PASSWORD, USER

Command = list[str | Path]


@dataclass(frozen=True, slots=True)
class Place:
    """What a peer may need to know to start."""

    program: Path
    directory: Path
    port: int
    target: str


@dataclass(frozen=True, slots=True)
class Peer:
    """`speaks` lists the protocols that are measured; `note` tells how it is set up; `weight` is how many times the
    work of microsocks it takes, so that slow ones get fewer connections."""

    name: str
    program: str
    command: Callable[[Place], Command]
    speaks: Sequence[str]
    note: str
    weight: int = 1
    login: bool = False


class Running:
    """A started peer."""

    def __init__(self, peer: Peer, program: Path, directory: Path, target: str, environment: dict[str, str]) -> None:
        self.peer = peer
        self.port = ports.free()
        command = peer.command(Place(program, directory, self.port, target))
        user = PROXY_UID + 1 + PEERS.index(peer)
        self.child = Child(command, directory, user=user, environment=environment)
        try:
            self.child.wait_for(lambda: listens(self.port))
        except BaseException:
            self.child.close()
            raise

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def roots(self) -> list[int]:
        return [self.child.pid]

    def close(self) -> None:
        self.child.close()


def _file(place: Place, name: str, text: str) -> Path:
    path = place.directory / f"{name}-{place.port}.conf"
    path.write_text(text)
    return path


def _microsocks(place: Place) -> Command:
    return [place.program, "-i", "127.0.0.1", "-p", str(place.port)]


def _microsocks_login(place: Place) -> Command:
    return [*_microsocks(place), "-u", USER, "-P", PASSWORD]


def _tinyproxy(place: Place) -> Command:
    text = f"""Port {place.port}
Listen 127.0.0.1
Timeout 600
LogLevel Critical
LogFile "/dev/null"
MaxClients 10000
"""
    return [place.program, "-d", "-c", _file(place, "tinyproxy", text)]


def _squid(place: Place) -> Command:
    share = place.program.parent.parent / "share"
    text = f"""http_port 127.0.0.1:{place.port}
http_access allow all
cache deny all
access_log none
cache_log /dev/null
cache_store_log none
pid_filename none
coredump_dir {place.directory}
mime_table {share}/squid/mime.conf
icon_directory {share}/squid/icons
error_directory {share}/squid-langpack/en
pinger_enable off
client_db off
via off
max_filedescriptors 16384
visible_hostname bench
"""
    return [place.program, "-N", "-f", _file(place, "squid", text)]


def _dante(place: Place) -> Command:
    text = f"""logoutput: /dev/null
internal: 127.0.0.1 port = {place.port}
external: 127.0.0.1
clientmethod: none
socksmethod: none
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
"""
    return [place.program, "-f", _file(place, "danted", text)]


def _haproxy(buffer: int = 16384, splice: bool = False) -> Callable[[Place], Command]:
    def command(place: Place) -> Command:
        text = f"""global
    nbthread 1
    maxconn 2000
    tune.bufsize {buffer}
defaults
    mode tcp
    {"option splice-auto" if splice else ""}
    timeout connect 10s
    timeout client 10m
    timeout server 10m
listen bench
    bind 127.0.0.1:{place.port} backlog 4096
    server origin {place.target}
"""
        return [place.program, "-db", "-f", _file(place, "haproxy", text)]

    return command


def _proxy_py(place: Place) -> Command:
    one = ["--num-workers", "1", "--num-acceptors", "1", "--log-level", "e"]
    return [place.program, "-m", "proxy", "--hostname", "127.0.0.1", "--port", str(place.port), *one]


def _pproxy(place: Place) -> Command:
    return [place.program, "-m", "pproxy", "-l", f"http+socks5://127.0.0.1:{place.port}"]


def _glider(place: Place) -> Command:
    return [place.program, "-listen", f"mixed://127.0.0.1:{place.port}"]


def _gost(place: Place) -> Command:
    return [place.program, "-L", f"auto://127.0.0.1:{place.port}"]


_TUNED = 262144
_PASSED = "TCP pass-through, no handshake to parse, 1 thread"

PEERS = (
    Peer("microsocks", "microsocks", _microsocks, ("socks",), "no log-in"),
    Peer("microsocks-auth", "microsocks", _microsocks_login, ("socks",), "user and password", login=True),
    Peer("squid", "squid", _squid, ("http",), "no log-in, no cache, no access log, 1 process", 2),
    Peer("tinyproxy", "tinyproxy", _tinyproxy, ("http",), "no log-in, log only of critical errors", 3),
    Peer("dante", "danted", _dante, ("socks",), "no log-in, no log", 8),
    Peer("haproxy", "haproxy", _haproxy(), ("direct",), _PASSED),
    Peer("haproxy-bufsize", "haproxy", _haproxy(_TUNED), ("direct",), f"the same, tune.bufsize {_TUNED}"),
    Peer("haproxy-splice", "haproxy", _haproxy(splice=True), ("direct",), "the same, option splice-auto"),
    Peer(
        "haproxy-both",
        "haproxy",
        _haproxy(_TUNED, splice=True),
        ("direct",),
        f"the same, tune.bufsize {_TUNED} and splice-auto",
    ),
    Peer("proxy.py", "proxy.py", _proxy_py, ("http",), "1 worker", 5),
    Peer("pproxy", "pproxy", _pproxy, ("http", "socks"), "no log-in", 5),
    Peer("glider", "glider", _glider, ("http", "socks"), "no log-in", 4),
    Peer("gost", "gost", _gost, ("http", "socks"), "no log-in", 2),
)
