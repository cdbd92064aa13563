"""WireGuard's configuration files, as wg-quick(8) reads them: what of one an exit runs with. Pure.

Only what is known here is taken; whatever would start a program is refused, and so is whatever the exit cannot do:
another key, or a tunnel for some addresses only, would be something else than what the file says.
"""

import re
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, ip_interface, ip_network

from control.providers import ProviderError
from control.providers.remotes import Remote, host_of, port_of
from control.providers.servers import is_wireguard_key
from health.agent.nodefile import dns_server

MAX_LINE = 4096
_ASSIGNMENT = re.compile(r"([A-Za-z]+)\s*=\s*(.*)", re.ASCII)
_PROGRAMS = frozenset({"preup", "postup", "predown", "postdown"})
# The exit sees to these by itself: its device, its routes, its keepalive; nothing of them can be wrong for it.
_ITS_OWN = {
    "interface": frozenset({"mtu", "listenport", "table", "fwmark"}),
    "peer": frozenset({"persistentkeepalive"}),
}
_TAKEN = {
    "interface": frozenset({"privatekey", "address", "dns"}),
    "peer": frozenset({"publickey", "presharedkey", "endpoint", "allowedips"}),
}


@dataclass(frozen=True, slots=True)
class WireGuardFile:
    """A file that an exit can run with."""

    remote: Remote
    private_key: str = field(repr=False)
    public_key: str
    address: str
    dns: tuple[str, ...]
    preshared_key: str = field(default="", repr=False)


def is_wireguard(text: str) -> bool:
    """Whether a .conf file is WireGuard's, not OpenVPN's."""
    return any(line.strip().lower() == "[interface]" for line in text.splitlines())


def parse(name: str, text: str) -> WireGuardFile:
    """Read a file. Raises ProviderError with file and line; never with a key."""
    found = _sections(name, text)
    for section, wanted in (
        ("interface", ("privatekey", "address")),
        ("peer", ("publickey", "endpoint", "allowedips")),
    ):
        for key in wanted:
            if (section, key) not in found:
                raise ProviderError(f"{name}: [{section.capitalize()}] has no {key}")
    _carries_everything(name, *found["peer", "allowedips"])
    return WireGuardFile(
        remote=_remote(name, *found["peer", "endpoint"]),
        private_key=_key(name, *found["interface", "privatekey"]),
        public_key=_key(name, *found["peer", "publickey"]),
        address=_address(name, *found["interface", "address"]),
        dns=_dns(name, *found.get(("interface", "dns"), (0, ""))),
        preshared_key=_key(name, *found["peer", "presharedkey"]) if ("peer", "presharedkey") in found else "",
    )


def _sections(name: str, text: str) -> dict[tuple[str, str], tuple[int, str]]:
    """(section, key) -> (line, value), lower case; values of a key that is there twice are joined, as wg-quick does."""
    found: dict[tuple[str, str], tuple[int, str]] = {}
    section, peers = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.partition("#")[0].strip().removeprefix("\ufeff")
        where = f"{name} line {number}"
        if len(raw) > MAX_LINE:
            raise ProviderError(f"{where} is longer than {MAX_LINE} characters")
        if not line:
            continue
        if line.startswith("["):
            section = line.strip("[]").lower()
            peers += section == "peer"
            if section not in _TAKEN or peers > 1:
                raise ProviderError(f"{where}: one [Interface] and one [Peer] are expected")
            continue
        assigned = _ASSIGNMENT.fullmatch(line)
        if assigned is None or not section:
            raise ProviderError(f"{where} is not understood")
        key, value = assigned[1].lower(), assigned[2].strip()
        if key in _PROGRAMS or key == "saveconfig":
            raise ProviderError(
                f"{where}: {assigned[1]} is not allowed: a VPN file may not start programs or write files"
            )
        if key in _ITS_OWN[section]:
            continue
        if key not in _TAKEN[section]:
            raise ProviderError(f"{where}: {assigned[1][:32]} is not supported")
        old = found.get((section, key))
        found[section, key] = (number, f"{old[1]},{value}" if old else value)
    return found


def _remote(name: str, line: int, value: str) -> Remote:
    host, _, port = value.rpartition(":")
    try:
        return Remote(host_of(host), port_of(port), "udp")
    except ValueError as error:
        raise ProviderError(f"{name} line {line}: Endpoint: {error}") from None


def _key(name: str, line: int, value: str) -> str:
    if not is_wireguard_key(value):
        raise ProviderError(f"{name} line {line}: this is no WireGuard key (44 characters of base64)")
    return value


def _address(name: str, line: int, value: str) -> str:
    """The tunnel's IPv4 address; IPv6 is not carried."""
    try:
        found = [ip_interface(part) for part in _parts(value)]
    except ValueError:
        raise ProviderError(f"{name} line {line}: Address is not understood") from None
    four = next((address for address in found if isinstance(address, IPv4Interface)), None)
    if four is None:
        raise ProviderError(f"{name} line {line}: Address has no IPv4 address, and exits carry nothing else")
    return str(four)


def _dns(name: str, line: int, value: str) -> tuple[str, ...]:
    """IPv4 servers; search domains and IPv6 ones are left out."""
    found = []
    for part in _parts(value):
        if re.fullmatch(r"[0-9.]+", part):
            try:
                found.append(dns_server(part))
            except ValueError as error:
                raise ProviderError(f"{name} line {line}: DNS: {error}") from None
    return tuple(dict.fromkeys(found))


def _carries_everything(name: str, line: int, value: str) -> None:
    try:
        networks = {str(ip_network(part, strict=False)) for part in _parts(value)}
    except ValueError:
        raise ProviderError(f"{name} line {line}: AllowedIPs is not understood") from None
    if not ({"0.0.0.0/0"} <= networks or {"0.0.0.0/1", "128.0.0.0/1"} <= networks):
        raise ProviderError(f"{name} line {line}: AllowedIPs is not 0.0.0.0/0: the tunnel does not lead everywhere")


def _parts(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]
