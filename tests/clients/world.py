"""Two countries, an exit in each, sites behind them, and gateways before them: what every client test uses.

`open` asks loopback clients for no password, `closed` does. HAProxy stands before the others: `tls` with a certificate
before `closed`; `ports` and `names` before a gateway that learns from the PROXY header which port was dialled (10276:
Germany) or which server name (proxy-jp.vpn.test); `refusing` before one that asks for a password and sees each
connection come from another address, since failed log-ins are slowed per address.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from argon2 import PasswordHasher

from deploy import ports
from deploy.lab.pki import Authority
from health.config import RedisSettings
from health.model import User
from health.registry import Registry
from tests.gateway.harness import ROOT, Exit, Gateway, curl, serve, wait_for

HERE = Path(__file__).parent
HOST = "127.0.0.1"
NODES = {"jp": "jp000001", "de": "de000001"}
USER = "alice"
PASSWORD = "s3:cret@1"
SITE = "origin.test"
PORT_OF_DE = 10276  # 10000 and the country's ISO 3166-1 number

SSHD_CONFIG = """\
Port 22
ListenAddress 127.0.0.1
HostKey {directory}/host_key
AuthorizedKeysFile {directory}/client_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin yes
SetEnv NODE={node}
"""
HAPROXY_CONFIG = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen tls
    bind {host}:{tls} ssl crt {directory}/server.pem
    server gateway {host}:{closed}
listen ports
    bind {host}:{ports}
    tcp-request content set-dst-port int({country})
    server gateway {host}:{behind} send-proxy-v2
listen names
    bind {host}:{names} ssl crt {directory}/front.pem
    server gateway {host}:{behind} send-proxy-v2 proxy-v2-options authority
listen refusing
    bind {host}:{refusing}
    tcp-request content set-src rand(65536),add(2130771968)
    server gateway {host}:{asking} send-proxy-v2
"""  # 2130771968 is 127.1.0.0
PROXY_NAME = "proxy-jp.vpn.test"


class Front(NamedTuple):
    """Something to dial besides a gateway."""

    port: int


class World:
    def __init__(self, directory: Path, redis_url: str) -> None:
        self.directory, self._redis_url = directory, redis_url
        self._stack = contextlib.ExitStack()
        try:
            self._make_keys()
            self.exits = [self._exit(node) for node in NODES.values()]
            asyncio.run(self._register())
            proxied = {"trusted_proxies": ["127.0.0.0/8"]}
            wanted = ({}, {"require_auth": True}, proxied | {"domain": "vpn.test"}, proxied | {"require_auth": True})
            with ThreadPoolExecutor() as pool:
                made = pool.map(lambda settings: self.gateway(**settings), wanted)
                self.open, self.closed, behind, asking = made
            self.tls, self.ports, self.names, self.refusing = (Front(ports.free()) for _ in range(4))
            self._haproxy(closed=self.closed.port, behind=behind.port, asking=asking.port)
            for country, node in NODES.items():
                url = self.url("http", country, self.open)
                wait_for(lambda u=url, n=node: curl("-x", u, f"http://{SITE}/").stdout.strip() == n, what=node)
        except BaseException:
            self.close()
            raise

    @property
    def ca(self) -> str:
        return str(self.directory / "ca.pem")

    def name(self, country: str) -> str:
        """The proxy user name that asks for `country`."""
        return f"{USER}-country-{country}"

    def url(self, scheme: str, country: str, gateway: Gateway | Front | None = None, password: str = PASSWORD) -> str:
        """A proxy URL with user name and password, by default of the gateway that asks for them."""
        port = (gateway or self.closed).port
        return f"{scheme}://{self.name(country)}:{quote(password, safe='')}@{HOST}:{port}"

    def gateway(self, **settings: object) -> Gateway:
        """One more gateway; it ends with the world, if not before."""
        made = Gateway(self._redis_url, self.directory, **settings)
        self._stack.callback(made.close)
        return made

    def close(self) -> None:
        self._stack.close()

    def _make_keys(self) -> None:
        authority = Authority("client tests")
        certificate, key = authority.issue(SITE, [HOST])
        (self.directory / "ca.pem").write_bytes(authority.certificate)
        (self.directory / "server.pem").write_bytes(certificate + key)
        (self.directory / "front.pem").write_bytes(b"".join(authority.issue(PROXY_NAME)))
        for name in ("host_key", "client_key"):
            _quiet("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.directory / name)
        host_key = (self.directory / "host_key.pub").read_text()
        (self.directory / "known_hosts").write_text(f"{SITE} {host_key}")

    def _exit(self, node: str) -> Exit:
        home = self.directory / node
        home.mkdir()
        (home / "sshd_config").write_text(SSHD_CONFIG.format(directory=self.directory, node=node))
        _make_repository(home, node)
        made = Exit(node, home)
        self._stack.callback(made.close)
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd(8): where it locks itself up
        sites = subprocess.Popen(
            ["nsenter", "-n", "-t", str(made.process.pid), sys.executable, HERE / "sites.py", node, self.directory],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self._stack.enter_context(_ended(sites))
        assert sites.stdout is not None
        assert sites.stdout.readline() == b"ready\n", "the sites did not start"
        return made

    async def _register(self) -> None:
        registry = Registry.open(RedisSettings(url=self._redis_url))
        await registry.begin_epoch()
        hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
        await registry.put_user(User(name=USER, password_hash=hasher.hash(PASSWORD)))
        await serve(registry, *self.exits)
        await registry.close()

    def _haproxy(self, **gateways: int) -> None:
        config = self.directory / "haproxy.cfg"
        fronts = {name: getattr(self, name).port for name in ("tls", "ports", "names", "refusing")}
        text = HAPROXY_CONFIG.format(directory=self.directory, host=HOST, country=PORT_OF_DE, **fronts, **gateways)
        config.write_text(text)
        haproxy = subprocess.Popen(["haproxy", "-q", "-db", "-f", config])
        self._stack.enter_context(_ended(haproxy))
        for port in fronts.values():
            wait_for(lambda p=port: _listens(p), what="HAProxy")


@contextlib.contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _listens(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def _make_repository(home: Path, node: str) -> None:
    """A bare repository that any web server can hand out, with the node's id in its one file."""
    tree, bare = home / "tree", home / "repository.git"
    tree.mkdir()
    (tree / "NODE").write_text(f"{node}\n")
    identity = ["-c", "user.name=test", "-c", "user.email=test@origin.test"]
    _quiet("git", "init", "-q", tree)
    _quiet("git", "-C", tree, "add", "NODE")
    _quiet("git", "-C", tree, *identity, "commit", "-q", "-m", "Say where this is")
    _quiet("git", "clone", "-q", "--bare", tree, bare)
    _quiet("git", "-C", bare, "update-server-info")
    shutil.rmtree(tree)


def _quiet(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=60)
