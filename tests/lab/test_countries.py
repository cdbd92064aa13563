"""Every country, by every way of asking for it."""

import itertools
import json
import socket

import pytest

from deploy.lab import world
from tests.lab.harness import Lab

WHERE = "http://where.lab.vpnexit.example/json"
HOW = {
    "CONNECT": ("http", ["-p"]),
    "plain HTTP": ("http", []),
    "SOCKS5 with names": ("socks5h", []),
    "SOCKS5 with addresses": ("socks5", []),
}
# What follows version, command and port: an address and a user, or a name after both (SOCKS4A).
SOCKS4 = [socket.inet_aton(world.WHOAMI) + b"user\0", b"\0\0\0\1user\0" + world.WHOAMI_NAME.encode() + b"\0"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("by", ["user name", "port"])
def test_each_country_leaves_from_its_own_address(lab: Lab, how: str, by: str) -> None:
    scheme, options = HOW[how]
    for country, row in lab.status["countries"].items():
        proxy = lab.proxy(country, scheme=scheme) if by == "user name" else lab.proxy(scheme=scheme, port=row["port"])
        seen = {lab.curl(proxy, "", *options).stdout.strip() for _ in range(6)}
        assert seen <= set(row["egress"]), (country, seen)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@pytest.mark.parametrize("host", [world.WHOAMI, world.WHOAMI_NAME])
def test_a_tunnel_to_an_address_and_to_a_name(lab: Lab, host: str, scheme: str) -> None:
    for country, row in lab.status["countries"].items():
        run = lab.curl(lab.proxy(country, scheme=scheme), f"http://{host}/", "-p", "-w", "%{http_connect}")
        seen, _, connected = run.stdout.partition("\n")
        assert seen in row["egress"], (country, run.stdout, run.stderr)
        assert connected == ("200" if scheme == "http" else "000")


def test_tls_to_the_target_works_through_a_tunnel(lab: Lab) -> None:
    for country, row in lab.status["countries"].items():
        run = lab.curl(lab.proxy(country), lab.status["whoami_tls"], "-k")
        assert run.stdout.strip() in row["egress"], run.stderr


def test_one_name_resolves_differently_per_country(lab: Lab) -> None:
    where = {}
    for country in lab.status["countries"]:
        told = json.loads(lab.curl(lab.proxy(country), WHERE).stdout)
        where[country] = told["local"]
    assert len(set(where.values())) == len(where), where


def test_sources_of_the_want_must_agree(lab: Lab) -> None:
    rows = lab.status["countries"]
    for one, other in itertools.permutations(rows, 2):
        run = lab.curl(lab.proxy(one, port=rows[other]["port"]), "", "-o", "/dev/null", "-w", "%{http_code}")
        assert run.stdout == "400"


@pytest.mark.parametrize(
    ("extra", "status", "words"),
    [
        ("-country-xx", "400", "unknown country"),
        ("-planet-mars", "400", "unknown key"),
        ("-country-fr", "503", "no exit is serving in fr"),
        ("-country-jp-country-us", "400", "twice"),
    ],
)
def test_a_want_that_cannot_be_met_is_said(lab: Lab, extra: str, status: str, words: str) -> None:
    run = lab.curl(lab.proxy(extra=extra), "", "-w", "\n%{http_code}")
    assert run.stdout.endswith(status), run.stdout
    assert words in run.stdout


def test_a_wrong_password_is_refused(lab: Lab) -> None:
    proxy = lab.proxy("jp").replace(lab.status["proxy"]["password"], "wrong")
    assert lab.curl(proxy, "", "-o", "/dev/null", "-w", "%{http_code}").stdout == "407"
    assert lab.curl(proxy.replace("http:", "socks5h:")).returncode == 97


@pytest.mark.parametrize("host", SOCKS4)
def test_socks4_and_4a_are_refused_since_they_have_no_password(lab: Lab, host: bytes) -> None:
    told = lab.status["proxy"]
    with socket.create_connection((told["host"], told["port"]), timeout=5) as sock:
        sock.sendall(b"\x04\x01\x00\x50" + host)
        answer = b"".join(iter(lambda: sock.recv(100), b""))
    assert answer[:2] == b"\x00\x5b"
    assert len(answer) == 8


def test_forbidden_targets_stay_forbidden(lab: Lab) -> None:
    # No tunnel of the lab carries IPv6, so that nobody asks for the address of `mapped`, which has no other.
    expected = {"private": ("403", "(2)"), "mixed": ("403", "(2)"), "mapped": ("502", "(4)")}
    for country, name in itertools.product(lab.status["countries"], expected):
        url, (status, reply) = f"http://{name}.lab.vpnexit.example/", expected[name]
        for options in ([], ["-p"]):
            asked = [*options, "-o", "/dev/null", "-w", "%{http_code} %{http_connect}"]
            assert status in lab.curl(lab.proxy(country), url, *asked).stdout.split(), (country, name)
        assert reply in lab.curl(lab.proxy(country, scheme="socks5h"), url).stderr, (country, name)


def test_an_ipv6_only_name_fails_and_a_dual_one_works(lab: Lab) -> None:
    six = lab.curl(lab.proxy("jp", scheme="socks5h"), "http://six.lab.vpnexit.example/")
    assert six.returncode == 97
    assert "(4)" in six.stderr
    assert (
        lab.curl(lab.proxy("jp"), "http://dual.lab.vpnexit.example/").stdout.strip()
        in (lab.status["countries"]["jp"]["egress"])
    )
