"""The lab's servers as containers: what files each one gets, and bringing them up and away."""

import json
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from deploy.lab import images, pki, world
from deploy.lab.engine import Engine
from deploy.lab.shell import LabError
from health.model import Protocol

READY_TIMEOUT_S = 30.0
WHOAMI = "vxlab-whoami"
API = "vxlab-api"
_READY = "serving"
_NEVER = "0001-"  # as Docker tells a time that has not been

OPENVPN = """\
port {port}
proto {proto}
dev tun0
topology subnet
server {network} 255.255.255.0
ca /lab/ca.crt
cert /lab/server.crt
key /lab/server.key
dh none
tls-auth /lab/ta.key 0
tls-version-min 1.2
auth SHA512
data-ciphers AES-256-GCM
verify-client-cert none
username-as-common-name
duplicate-cn
script-security 2
auth-user-pass-verify "/usr/bin/python3 /opt/lab/inside/check_user.py" via-file
tmp-dir /run/lab
ping 10
ping-restart 120
sndbuf 524288
rcvbuf 524288
push "redirect-gateway def1"
push "dhcp-option DNS {dns[0]}"
push "dhcp-option DNS {dns[1]}"
push "sndbuf 524288"
push "rcvbuf 524288"
push "ping 60"
push "ping-restart 180"
verb 3
"""
OPENVPN_BY_TRANSPORT = {
    Protocol.OPENVPN_UDP: 'push "explicit-exit-notify"\n',
    Protocol.OPENVPN_TCP: "tcp-nodelay\n",
}

WIREGUARD = """\
[Interface]
PrivateKey = {private}
ListenPort = {port}

[Peer]
PublicKey = {peer}
AllowedIPs = 10.5.0.2/32
"""


class Files:
    """The lab's generated files below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ca = root / "pki" / "ca.crt"
        self.tls_auth = root / "pki" / "ta.key"
        self.token = root / "pki" / "token"
        self.world = root / "api" / "world.json"

    def of(self, container: str) -> Path:
        return self.root / container


def write(files: Files) -> None:
    """Make all keys and configurations afresh, unless they are there: a running lab keeps its keys."""
    if files.world.exists():
        return
    authority, tls_auth, account = pki.Authority("VPN exit lab CA"), pki.static_key(), new_account()
    pki.write_private(files.ca, authority.certificate)
    pki.write_private(files.tls_auth, tls_auth)
    pki.write_private(files.token, account["token"] + "\n")
    certificate, key = authority.issue(world.WHOAMI_NAME, [world.WHOAMI])
    pki.write_private(files.of(WHOAMI) / "server.crt", certificate)
    pki.write_private(files.of(WHOAMI) / "server.key", key)
    public_keys = {}
    for server in world.SERVERS:
        directory = files.of(server.container)
        pki.write_private(directory / "server.json", json.dumps(settings(server)))
        if server.protocol is Protocol.WIREGUARD:
            own = pki.wireguard_key()
            public_keys[server.name] = own.public
            peer = account["nordlynx_public_key"]
            pki.write_private(
                directory / "wg0.conf", WIREGUARD.format(private=own.private, port=server.port, peer=peer)
            )
            continue
        certificate, key = authority.issue(server.hostname)
        pki.write_private(directory / "ca.crt", authority.certificate)
        pki.write_private(directory / "server.crt", certificate)
        pki.write_private(directory / "server.key", key)
        pki.write_private(directory / "ta.key", tls_auth)
        pki.write_private(directory / "credentials", f"{account['username']}\n{account['password']}\n")
        pki.write_private(directory / "openvpn.conf", openvpn_config(server))
    pki.write_private(files.world, json.dumps(api_world(account, public_keys), indent=1))


def new_account() -> dict[str, str]:
    """One NordVPN account: access token (64 hex digits), service credentials (24 characters each), WireGuard key."""
    key = pki.wireguard_key()
    return {
        "token": secrets.token_hex(32),
        "username": secrets.token_urlsafe(18),
        "password": secrets.token_urlsafe(18),
        "nordlynx_private_key": key.private,
        "nordlynx_public_key": key.public,
    }


def settings(server: world.VpnServer) -> dict[str, Any]:
    """What `inside/vpn_server.py` reads."""
    return {
        "protocol": server.protocol.value,
        "entry": server.entry,
        "mac": server.mac,
        "egress": server.egress,
        "wan": world.WAN_V4,
        "gateway": server.gateway,
        "dns": list(world.TUNNEL_DNS),
        "answers": world.answers(server.country),
        "rebinding": world.REBINDING_ZONE,
    }


def openvpn_config(server: world.VpnServer) -> str:
    proto = "udp" if server.protocol is Protocol.OPENVPN_UDP else "tcp-server"
    network = server.gateway.partition("/")[0].rpartition(".")[0] + ".0"
    text = OPENVPN.format(port=server.port, proto=proto, network=network, dns=world.TUNNEL_DNS)
    return text + OPENVPN_BY_TRANSPORT[server.protocol]


def api_world(account: dict[str, str], public_keys: dict[str, str]) -> dict[str, Any]:
    """What `inside/nordvpn_api.py` tells."""
    return {
        "countries": [_country(place) for place in world.PLACES.values()],
        "servers": [_listed(number, server, public_keys) for number, server in enumerate(world.SERVERS, start=900001)],
        "accounts": [{**account, "forbidden": False}],
        "egress": {server.egress: server.country.upper() for server in world.SERVERS},
    }


def start(engine: Engine, files: Files, only: Collection[str] = ()) -> None:
    """Bring networks and servers up (or `only` these containers); what runs already is left alone.

    Raises:
        LabError: a server is not ready within 30 s; the text names it and says its last words.
    """
    # One that was never started may lack its second network: an earlier `up` was cut off while it made it.
    for name in _names(engine, "--all", "--filter", "status=created"):
        engine.docker("rm", "--volumes", name)
    running, present = _names(engine), _names(engine, "--all")
    _create_networks(engine)
    wanted = [(name, create) for name, create in _servers(engine, files) if not only or name in only]
    for name, create in wanted:
        if name not in present:
            create()
        if name not in running:
            engine.docker("start", name)
    deadline = time.monotonic() + READY_TIMEOUT_S
    for name, _ in wanted:
        _wait_ready(engine, name, deadline)


def remove(engine: Engine) -> None:
    """Remove servers and networks. Whoever else is attached to the networks must be gone."""
    names = engine.docker("ps", "--all", "--quiet", "--filter", f"label={world.LABEL}").split()
    if names:
        engine.docker("rm", "--force", "--volumes", *names)
    for network in engine.docker("network", "ls", "--quiet", "--filter", f"label={world.LABEL}").split():
        engine.docker("network", "rm", network)


def _names(engine: Engine, *options: str) -> set[str]:
    """Names of the lab's servers, as `docker ps` lists them."""
    return set(engine.docker("ps", *options, "--filter", f"label={world.LABEL}", "--format", "{{.Names}}").split())


def _servers(engine: Engine, files: Files) -> list[tuple[str, Callable[[], None]]]:
    whoami = ["--certificate", "/lab/server.crt", "--key", "/lab/server.key"]
    for place in world.PLACES.values():
        whoami += ["--address", f"{place.where}/32"]
    stand_ins = [
        (WHOAMI, world.WHOAMI, files.of(WHOAMI), ["inside.whoami", *whoami]),
        (API, world.API, files.world.parent, ["inside.nordvpn_api", "--world", "/lab/world.json"]),
    ]
    made: list[tuple[str, Callable[[], None]]] = [
        (name, partial(_create, engine, name, address, directory, command))
        for name, address, directory, command in stand_ins
    ]
    made += [(one.container, partial(_create_vpn, engine, one, files.of(one.container))) for one in world.SERVERS]
    return made


def _create(engine: Engine, name: str, address: str, directory: Path, command: Sequence[str]) -> None:
    engine.docker(
        *("create", "--name", name, "--hostname", name, "--label", f"{world.LABEL}=1", "--init"),
        *("--network", world.WAN, "--ip", address, "--cap-add", "NET_ADMIN", "--volume", f"{directory}:/lab:ro"),
        *(images.SERVER, "python3", "-m", *command),
    )


def _create_vpn(engine: Engine, server: world.VpnServer, directory: Path) -> None:
    engine.docker(
        *("create", "--name", server.container, "--hostname", server.name, "--label", f"{world.LABEL}=1"),
        *("--network", world.UPLINK, "--ip", server.entry),
        *("--cap-add", "NET_ADMIN", "--device", "/dev/net/tun", "--sysctl", "net.ipv4.ip_forward=1"),
        *("--volume", f"{directory}:/lab:ro", images.SERVER, "python3", "-m", "inside.vpn_server"),
    )
    engine.docker("network", "connect", "--ip", server.egress, world.WAN, server.container)


def _create_networks(engine: Engine) -> None:
    present = set(engine.docker("network", "ls", "--format", "{{.Name}}").split())
    label = ("--label", f"{world.LABEL}=1")
    if world.UPLINK not in present:
        engine.docker(
            *("network", "create", *label, "--opt", f"com.docker.network.bridge.name={world.UPLINK}"),
            *("--opt", "com.docker.network.bridge.enable_ip_masquerade=false", "--ipv6"),
            *("--subnet", world.UPLINK_V4, "--gateway", world.UPLINK_V4_GATEWAY, "--ip-range", world.UPLINK_V4_DYNAMIC),
            *("--subnet", world.UPLINK_V6, "--gateway", world.UPLINK_V6_GATEWAY, world.UPLINK),
        )
    if world.WAN not in present:
        engine.docker(
            *("network", "create", *label, "--opt", f"com.docker.network.bridge.name={world.WAN}", "--internal"),
            *("--subnet", world.WAN_V4, "--gateway", world.WAN_V4_GATEWAY, world.WAN),
        )


def _wait_ready(engine: Engine, name: str, deadline: float) -> None:
    while True:
        running, ended = engine.docker("inspect", "--format", "{{.State.Running}} {{.State.FinishedAt}}", name).split()
        # From the end of its last run on, not from its start: a busy daemon notes that after the first words were said.
        since = [] if ended.startswith(_NEVER) else ["--since", ended]
        if _READY in engine.docker("logs", *since, name).splitlines():
            return
        if running != "true" or time.monotonic() > deadline:
            raise LabError(f"the lab's server {name} did not come up: {engine.last_words(name)}")
        time.sleep(0.1)


def _country(place: world.Place) -> dict[str, Any]:
    city = {
        "id": place.city_number,
        "name": place.city,
        "latitude": place.latitude,
        "longitude": place.longitude,
        "dns_name": place.city.lower().replace(" ", "-"),
    }
    return {"id": place.number, "name": place.name, "code": place.country.upper(), "cities": [city]}


def _listed(number: int, server: world.VpnServer, public_keys: dict[str, str]) -> dict[str, Any]:
    place = world.PLACES[server.country]
    metadata = {"public_key": public_keys[server.name]} if server.name in public_keys else {}
    return {
        "id": number,
        "name": f"{place.name} #{server.name[2:]}",
        "hostname": server.hostname,
        "station": server.entry,
        "load": server.load,
        "status": "online",
        "country": server.country.upper(),
        "city": place.city,
        "technologies": {world.TECHNOLOGY[server.protocol]: metadata},
        "specifications": {},
    }
