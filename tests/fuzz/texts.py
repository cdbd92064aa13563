"""Parsers that take a text whole: VPN files, and what requests to the API say. The cuts mean nothing to them.

The rule: what is not taken is refused by the one error that callers expect, in a short text of its own; an OpenVPN file
that is taken is, written anew, one that the exit's own check lets through.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl

from multidict import MultiDict

from control.api import bodies
from control.api.errors import ApiError
from control.api.reading import PATH_CHECKS, checked, in_path, once, understood
from control.providers import ProviderError, ovpn, wgconf
from health.agent.openvpn_config import refused
from tests.control.providers.test_ovpn import PLAIN as OVPN
from tests.control.providers.test_wgconf import PLAIN as WIREGUARD
from tests.gateway.wire.parsers import Parser

LONGEST = 600  # characters of a refusal
_BODIES = (bodies.PoolBody, bodies.UserBody, bodies.UserPatch, bodies.TokenBody, bodies.StartBody, bodies.ScaleBody)
_QUERIES = (bodies.NodesQuery, bodies.LogsQuery, bodies.CountryQuery, bodies.StartBody)


def _openvpn(text: str) -> object:
    found = ovpn.parse("x.ovpn", text)
    written = ovpn.render(found, found.remotes[0], "198.18.0.9", login=found.needs_login).decode()
    assert refused(written) is None, written
    return found


def _wireguard(text: str) -> object:
    return wgconf.is_wireguard(text), wgconf.parse("x.conf", text)


def _bodies(text: str) -> object:
    raw = text.encode()
    return [_told(lambda kind=kind: understood(kind, raw, "application/json", {})) for kind in _BODIES]


def _queries(text: str) -> object:
    query = MultiDict(parse_qsl(text, keep_blank_values=True))
    return [_told(lambda kind=kind: checked(kind, once(query))) for kind in _QUERIES]


def _paths(text: str) -> object:
    return [_told(lambda name=name: in_path({name: text})) for name in PATH_CHECKS]


def _told(take: Callable[[], Any]) -> object:
    """What `take` answers, or the refusal that it raises."""
    try:
        return take()
    except (ApiError, ProviderError) as error:
        said = str(error)
        assert 0 < len(said) <= LONGEST, said
        return said


def _parser(take: Callable[[str], object], *seeds: str) -> Parser:
    def run(data: bytes, cuts: Sequence[int]) -> object:
        return _told(lambda: take(data.decode(errors="replace")))

    return Parser(run, tuple(seed.encode() for seed in seeds))


TEXTS = {
    "openvpn_file": _parser(_openvpn, OVPN, "client\nremote 198.18.0.1 443 tcp\n<ca>\n", "setenv \"a b\" 'c' # d\n"),
    "wireguard_file": _parser(_wireguard, WIREGUARD, "[Interface]\nPostUp = x\n"),
    "api_bodies": _parser(
        _bodies,
        json.dumps({"desired": 2, "min": 1, "max": 3, "strategy": "random", "fallback": ["us", "uk"], "version": 1}),
        json.dumps({"rotate_hours": 12, "target_connections": 200, "provider": "custom", "protocol": "wireguard"}),
        json.dumps({"name": "alice", "password": "x", "allowed_countries": ["jp"], "default_country": "us"}),
        json.dumps({"max_connections": 1, "bytes_per_second": 1024, "monthly_bytes": 10**15}),
        json.dumps({"name": "ci", "scope": "read", "ttl": 60}),
        json.dumps({"server": "jp1.vpn.example", "city": "Tokyo", "protocol": "openvpn_udp", "nodes": 2.0}),
    ),
    "api_queries": _parser(
        _queries, "limit=5&offset=2&country=uk&status=running", "lines=100", "server=a&city=b&city=c&protocol="
    ),
    "api_paths": _parser(_paths, "jp", "UK", "jp3f9a1c", "3f9a1c0b77de", "alice.b_2"),
}
