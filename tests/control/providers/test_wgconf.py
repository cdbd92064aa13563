"""WireGuard files: an exit runs with what they say, or they are refused with file and line."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.providers import ProviderError
from control.providers.remotes import Remote
from control.providers.wgconf import WireGuardFile, is_wireguard, parse

PRIVATE = base64.b64encode(b"p" * 32).decode()
PUBLIC = base64.b64encode(b"q" * 32).decode()
PLAIN = f"""\
# a comment
[Interface]
PrivateKey = {PRIVATE}
Address = 10.64.0.9/32, fc00:bbbb::9/128
DNS = 10.64.0.1, search.example, fc00::1
MTU = 1280

[Peer]
PublicKey={PUBLIC}
AllowedIPs = 0.0.0.0/0
AllowedIPs = ::/0
Endpoint = jp-tyo-wg-001.vpn.example:51820 # Tokyo
PersistentKeepalive = 25
"""


def test_a_providers_file_is_understood() -> None:
    found = parse("jp.conf", PLAIN)
    assert found == WireGuardFile(
        Remote("jp-tyo-wg-001.vpn.example", 51820, "udp"), PRIVATE, PUBLIC, "10.64.0.9/32", ("10.64.0.1",)
    )
    assert PRIVATE not in repr(found)
    assert is_wireguard(PLAIN)
    assert not is_wireguard("client\nremote x 1\n")


def test_a_shared_key_is_taken_along() -> None:
    shared = base64.b64encode(b"s" * 32).decode()
    found = parse("jp.conf", PLAIN.replace("[Peer]", f"[Peer]\nPresharedKey = {shared}"))
    assert found.preshared_key == shared
    assert shared not in repr(found)


@pytest.mark.parametrize("word", ["PostUp", "PostDown", "PreUp", "PreDown", "postup", "SaveConfig"])
@pytest.mark.parametrize("section", ["[Interface]", "[Peer]"])
def test_what_starts_programs_is_refused_with_file_and_line(word: str, section: str) -> None:
    text = PLAIN.replace(section, f"{section}\n{word} = iptables -A secret")
    line = text.splitlines().index(f"{word} = iptables -A secret") + 1
    with pytest.raises(ProviderError, match=rf"^jp\.conf line {line}: {word} is not allowed") as caught:
        parse("jp.conf", text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (f"PrivateKey = {PRIVATE}\n", "", "has no privatekey"),
        (PRIVATE, PRIVATE[:-4], "line 3: this is no WireGuard key"),
        (PUBLIC, "x", "line 9: this is no WireGuard key"),
        ("0.0.0.0/0", "10.0.0.0/8", "line 11: AllowedIPs is not 0.0.0.0/0"),
        ("0.0.0.0/0", "everything", "AllowedIPs is not understood"),
        ("10.64.0.9/32, ", "", "line 4: Address has no IPv4 address"),
        ("10.64.0.9/32", "x", "line 4: Address is not understood"),
        ("jp-tyo-wg-001.vpn.example:51820", "[2001:db8::1]:51820", "line 12: Endpoint: exits reach servers by IPv4"),
        ("jp-tyo-wg-001.vpn.example:51820", "vpn.example", "line 12: Endpoint: "),
        ("jp-tyo-wg-001.vpn.example:51820", "127.0.0.1:1", "line 12: Endpoint: 127.0.0.1 is no address"),
        ("10.64.0.1,", "127.0.0.1,", "line 5: DNS: 127.0.0.1 is no name server"),
        ("[Peer]", "[Peer]\nPresharedKey = x", "line 9: this is no WireGuard key"),
        ("[Peer]", "[Peer]\nAdvancedSecurity = on", "line 9: AdvancedSecurity is not supported"),
        ("[Peer]", "[Peer]\nPublicKey = x\n[Peer]", "line 10: one \\[Interface\\] and one \\[Peer\\]"),
        ("[Peer]", "[Script]", "line 8: one \\[Interface\\] and one \\[Peer\\]"),
        ("[Interface]\n", "", "line 2 is not understood"),
        ("MTU = 1280", "MTU", "line 6 is not understood"),
        ("MTU = 1280", "X" * 5000, "line 6 is longer than 4096"),
    ],
)
def test_what_an_exit_cannot_do_is_refused(old: str, new: str, why: str) -> None:
    assert old in PLAIN
    with pytest.raises(ProviderError, match=why) as caught:
        parse("jp.conf", PLAIN.replace(old, new))
    assert PRIVATE not in str(caught.value)


LINES = st.sampled_from([*PLAIN.splitlines(), "PostUp = x", "[Peer]", "DNS =", "Address = ,", "\x85", "= x"])


def outcome(read: Callable[..., Any], *given: str) -> Any:
    try:
        return read(*given)
    except ProviderError as error:
        return error


@given(st.lists(LINES | st.text(max_size=30), max_size=20).map("\n".join) | st.text())
def test_any_text_is_a_file_or_refused(text: str) -> None:
    found = outcome(parse, "x.conf", text)
    if isinstance(found, ProviderError):
        assert str(found).startswith("x.conf")
        assert len(str(found)) < 300
        assert PRIVATE not in str(found)
    else:
        assert "postup" not in text.lower().replace("#", "\n").split("\n")
        assert "\n" not in found.address + found.private_key + found.public_key + "".join(found.dns)
