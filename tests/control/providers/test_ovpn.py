"""OpenVPN files: read, judged, and written anew in a form that the exit accepts."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.providers import ProviderError, ovpn_words
from control.providers.ovpn import OpenVpnFile, parse, render, with_files
from control.providers.remotes import Remote
from health.agent.openvpn_config import refused

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n"
STATIC = "-----BEGIN OpenVPN Static key V1-----\n0a1b\n-----END OpenVPN Static key V1-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
PLAIN = f"""\
client
dev tun
proto udp
remote jp1.vpn.example 1194
remote jp1.vpn.example 443 tcp
resolv-retry infinite
remote-random
nobind
tun-mtu 1500
mssfix 1450
persist-key
ping 15
ping-restart 0
reneg-sec 0
remote-cert-tls server
verify-x509-name "C=JP, CN=jp1" subject
auth-user-pass
verb 3
pull
fast-io
user nobody
cipher AES-256-CBC
data-ciphers AES-256-GCM:AES-128-GCM
auth SHA512
dhcp-option DNS 10.8.0.1
setenv UV_ID x
setenv opt block-outside-dns
<ca>
Certificate: data
{CERTIFICATE}</ca>
key-direction 1
<tls-auth>
# 2048 bit
{STATIC}</tls-auth>
<cert>
{CERTIFICATE}</cert>
<key>
{KEY}</key>
"""


def test_a_providers_file_is_understood() -> None:
    found = parse("jp.ovpn", PLAIN)
    assert found.remotes == (Remote("jp1.vpn.example", 1194, "udp"), Remote("jp1.vpn.example", 443, "tcp"))
    assert (found.needs_login, found.login, found.dns, found.files) == (True, None, ("10.8.0.1",), {})
    assert found.blocks == {"ca": CERTIFICATE, "tls-auth": STATIC, "cert": CERTIFICATE, "key": KEY}
    assert "c2VjcmV0" not in repr(found)


def test_it_is_written_anew_for_one_server_and_the_exit_runs_it() -> None:
    text = render(parse("jp.ovpn", PLAIN), Remote("jp1.vpn.example", 443, "tcp"), "198.18.0.9", login=True).decode()
    assert refused(text) is None
    lines = text.splitlines()
    for line in (
        "proto tcp4-client",
        "remote 198.18.0.9 443",
        "auth-user-pass auth.txt",
        "auth SHA512",
        "cipher AES-256-CBC",
    ):
        assert line in lines
    assert 'verify-x509-name "C=JP, CN=jp1" subject' in lines
    assert lines.count("remote 198.18.0.9 443") == 1
    for gone in ("jp1.vpn.example", "ping", "user nobody", "setenv", "Certificate:"):
        assert gone not in text
    assert f"<ca>\n{CERTIFICATE}</ca>\n" in text
    assert f"<key>\n{KEY}</key>\n" in text
    assert (
        "auth-user-pass" not in render(parse("x", PLAIN), Remote("a.b", 1, "udp"), "198.18.0.9", login=False).decode()
    )


@pytest.mark.parametrize("word", sorted(ovpn_words.PROGRAMS | {"management-client-user"}))
@pytest.mark.parametrize("form", ["{} /bin/secret", "  --{} x", "setenv opt {} x", "\t{}", '{} "/bin/secret x"'])
def test_what_starts_programs_is_refused_with_file_and_line(word: str, form: str) -> None:
    for text, line in ((form.format(word) + "\n" + PLAIN, 1), (PLAIN + form.format(word), PLAIN.count("\n") + 1)):
        with pytest.raises(ProviderError, match=rf"^jp/a\.ovpn line {line}: {word} is not allowed: ") as caught:
            parse("jp/a.ovpn", text)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("http-proxy 10.0.0.1 8080", "http-proxy is not on the list of what is allowed"),
        ("socks-proxy 10.0.0.1 8080", "socks-proxy is not on the list"),
        ("secret static.key", "secret is not on the list"),
        ("ifconfig 10.0.0.1 10.0.0.2", "ifconfig is not on the list"),
        ("dev tap", "what stands after dev is not understood"),
        ("dev", "what stands after dev is not understood"),
        ("proto udp6", "exits reach servers by IPv4"),
        ("proto sctp", "unknown proto"),
        ("remote", "what stands after remote is not understood"),
        ("remote ::1 1194", "exits reach servers by IPv4"),
        ("remote a.example 70000", "a port from 1 to 65535"),
        ("remote 127.0.0.1", "is no address of a VPN server"),
        ("remote-cert-tls client", "what stands after remote-cert-tls is not understood"),
        ("cipher AES; up", "line 36"),
        ("cipher 'A B'", "what stands after cipher is not understood"),
        ("ca ../../etc/shadow", "must stand beside this one"),
        ("ca /etc/shadow", "must stand beside this one"),
        ("auth-user-pass /etc/shadow", "must stand beside this one"),
        ("auth-user-pass a b", "what stands after auth-user-pass"),
        ("dhcp-option DNS 127.0.0.1", "is no name server behind a tunnel"),
        ("<connection>\nremote a 1\n</connection>", "<connection> is not supported"),
        ("<pkcs12>\nx\n</pkcs12>", "<pkcs12> is not supported"),
        ("<ca>\nnothing\n</ca>", "no certificate or key is in it"),
        ("<auth-user-pass>\nuser\n</auth-user-pass>", "two lines are expected"),
        ("<peer-fingerprint>\nx\n</peer-fingerprint>", "what stands in <peer-fingerprint>"),
    ],
)
def test_what_an_exit_cannot_do_is_refused(line: str, why: str) -> None:
    number = PLAIN.count("\n") + 1
    if line == "cipher AES; up":
        assert parse("x.ovpn", PLAIN + "cipher AES ; up").lines  # a comment
        line, why = "cipher AES;up", "what stands after cipher"
    with pytest.raises(ProviderError, match=why) as caught:
        parse("x.ovpn", PLAIN + line)
    assert str(caught.value).startswith(f"x.ovpn line {number}: ")


def test_what_is_missing_is_told() -> None:
    with pytest.raises(ProviderError, match=r"^x\.ovpn: it names no server"):
        parse("x.ovpn", f"client\n<ca>\n{CERTIFICATE}</ca>\n")
    with pytest.raises(ProviderError, match=r"^x\.ovpn: nothing in it proves who the server is"):
        parse("x.ovpn", "client\nremote a.example\n")


def test_port_and_proto_may_come_after_the_remote() -> None:
    found = parse("x", f"remote a.example\nremote b.example 99\nport 443\nproto tcp-client\n<ca>\n{CERTIFICATE}</ca>")
    assert found.remotes == (Remote("a.example", 443, "tcp"), Remote("b.example", 99, "tcp"))


def test_files_beside_it_are_named_and_taken_in() -> None:
    text = "remote a.example\nca ca.crt\ntls-auth ta.key 1\ntls-crypt [inline]\nauth-user-pass login.txt\n"
    found = parse("x", text)
    assert (found.files, found.login_file) == ({"ca": "ca.crt", "tls-auth": "ta.key"}, "login.txt")
    assert found.lines == ("key-direction 1",)
    whole = with_files(found, {"ca": CERTIFICATE, "tls-auth": f"# x\n{STATIC}"})
    assert (whole.files, whole.blocks) == ({}, {"ca": CERTIFICATE, "tls-auth": STATIC})
    with pytest.raises(ValueError, match="no certificate"):
        with_files(found, {"ca": "x"})


def test_a_login_in_the_file_and_a_fingerprint_instead_of_an_authority() -> None:
    print_ = ":".join(["AB"] * 32)
    text = "remote a.example\n<auth-user-pass>\nme\nhidden\n</auth-user-pass>\n"
    text += f"<peer-fingerprint>\n{print_}\n</peer-fingerprint>"
    found = parse("x", text)
    assert found.login == ("me", "hidden")
    assert "hidden" not in repr(found)
    assert refused(render(found, found.remotes[0], "198.18.0.1", login=True).decode()) is None


LINES = st.sampled_from(
    [
        *PLAIN.splitlines(),
        *sorted(ovpn_words.PROGRAMS),
        "up /bin/sh",
        '"up" x',
        "<ca>",
        "</ca>",
        "remote a.example 1 tcp",
    ]
)


def outcome(read: Callable[..., Any], *given: str) -> Any:
    try:
        return read(*given)
    except ProviderError as error:
        return error


@given(st.lists(LINES | st.text(max_size=30), max_size=30).map("\n".join) | st.text() | LINES.map(lambda x: PLAIN + x))
def test_any_text_is_a_file_that_the_exit_runs_or_refused(text: str) -> None:
    found = outcome(parse, "x.ovpn", text)
    if isinstance(found, ProviderError):
        assert str(found).startswith("x.ovpn")
        assert len(str(found)) < 300
        assert "c2VjcmV0" not in str(found)
    else:
        assert isinstance(found, OpenVpnFile)
        written = render(found, found.remotes[0], "198.18.0.9", login=found.needs_login).decode()
        assert refused(written) is None
        again = parse("x.ovpn", written)
        assert (again.lines, again.blocks) == (found.lines, found.blocks)
