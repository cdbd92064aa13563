"""A folder of VPN files: what is in it, for which country, with which login, and what is refused."""

import base64
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.providers import ProviderError, folder
from control.providers.folder import Folder, account_name, scan
from control.providers.labels import Label
from control.providers.ovpn import OpenVpnFile
from control.providers.wgconf import WireGuardFile

PEM = "-----BEGIN CERTIFICATE-----\nTUlJ\n-----END CERTIFICATE-----\n"
KEY = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
WG_KEY = base64.b64encode(b"p" * 32).decode()
OPENVPN = f"client\nremote jp1.vpn.example 1194 udp\nauth-user-pass\n<ca>\n{PEM}</ca>\n"
WIREGUARD = (
    f"[Interface]\nPrivateKey = {WG_KEY}\nAddress = 10.0.0.2/32\nDNS = 10.0.0.1\n"
    f"[Peer]\nPublicKey = {WG_KEY}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 198.18.0.7:51820\n"
)


def put(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def named(found: Folder) -> dict[str, str]:
    return {entry.name: entry.account for entry in found.entries}


def test_files_are_told_apart_by_what_is_in_them(tmp_path: Path) -> None:
    put(tmp_path / "auth.txt", "user\npass\n")
    put(tmp_path / "jp-tokyo-1.ovpn", OPENVPN)
    put(tmp_path / "us" / "new-york.conf", WIREGUARD)
    put(tmp_path / "us" / "openvpn.conf", OPENVPN)
    put(tmp_path / "readme.txt", "no VPN file")
    put(tmp_path / ".hidden.ovpn", "up x")
    found = scan(tmp_path)
    assert found.refused == ()
    first, second, third = found.entries
    assert (first.name, first.label, first.account, first.shared) == (
        *("jp-tokyo-1.ovpn", Label("jp", "Tokyo")),
        *("custom-auth.txt", True),
    )
    assert isinstance(first.content, OpenVpnFile)
    assert first.login == ("user", "pass")
    assert (second.label, second.shared, second.login) == (Label("us", "New York"), False, None)
    assert isinstance(second.content, WireGuardFile)
    assert [remote.host for remote in second.remotes] == ["198.18.0.7"]
    assert isinstance(third.content, OpenVpnFile)
    assert "pass" not in repr(found.entries[0]).replace("auth-user-pass", "")


def test_whose_login_a_file_has(tmp_path: Path) -> None:
    put(tmp_path / "auth.txt", "user\npass\n")
    put(tmp_path / "jp-1.ovpn", OPENVPN)
    put(tmp_path / "jp-2.ovpn", OPENVPN)
    put(tmp_path / "jp-2.auth", "own\nown\n")
    put(tmp_path / "us" / "us-1.ovpn", OPENVPN)
    put(tmp_path / "gb" / "gb-1.ovpn", OPENVPN)
    put(tmp_path / "gb" / "auth.txt", "british\npass\n")
    put(tmp_path / "gb" / "gb-2.ovpn", OPENVPN.replace("auth-user-pass", "auth-user-pass login.txt"))
    put(tmp_path / "gb" / "login.txt", "named\npass\n")
    put(tmp_path / "de-1.ovpn", OPENVPN + "<auth-user-pass>\nme\ninside\n</auth-user-pass>\n")
    put(tmp_path / "fr-1.ovpn", OPENVPN.replace("auth-user-pass\n", f"<key>\n{KEY}</key>\n"))
    found = scan(tmp_path)
    assert found.refused == ()
    logins = {entry.name: entry.login and entry.login[0] for entry in found.entries}
    assert logins == {
        "jp-1.ovpn": "user",
        "jp-2.ovpn": "own",
        "us/us-1.ovpn": "user",
        "gb/gb-1.ovpn": "british",
        "gb/gb-2.ovpn": "named",
        "de-1.ovpn": "me",
        "fr-1.ovpn": None,
    }
    accounts = named(found)
    assert accounts["jp-1.ovpn"] == accounts["us/us-1.ovpn"] == "custom-auth.txt"
    assert len(set(accounts.values())) == 6


def test_one_that_cannot_be_used_costs_nobody_else_anything(tmp_path: Path) -> None:
    put(tmp_path / "jp-1.conf", WIREGUARD)
    put(tmp_path / "jp-2.ovpn", OPENVPN)
    put(tmp_path / "jp-3.conf", WIREGUARD.replace("[Peer]", "PostUp = x\n[Peer]"))
    put(tmp_path / "jp-4.conf", WIREGUARD, 0o644)
    put(tmp_path / "jp-5.ovpn", "up x\n" + OPENVPN)
    put(tmp_path / "jp-6.ovpn", OPENVPN.replace(f"<ca>\n{PEM}</ca>", "ca ca.crt"))
    put(tmp_path / "jp-7.ovpn", OPENVPN, 0o666)
    put(tmp_path / "tokyo.ovpn", OPENVPN)
    put(tmp_path / "japan" / "x.conf", WIREGUARD)
    (tmp_path / "jp-8.ovpn").write_bytes(b"\xff\xfe\x00")
    put(tmp_path / "jp-9.ovpn", "x" * 300_000)
    found = scan(tmp_path)
    assert list(named(found)) == ["jp-1.conf"]
    for name, why in {
        "jp-2.ovpn": "asks for a user and password: put them into jp-2.auth or auth.txt",
        "jp-3.conf": "line 5: PostUp is not allowed",
        "jp-4.conf": "everybody may read or change it: chmod 600",
        "jp-5.ovpn": "line 1: up is not allowed",
        "ca.crt": "No such file",
        "jp-7.ovpn": "everybody may change",
        "jp-8.ovpn": "is not a text file",
        "jp-9.ovpn": "longer than",
        "tokyo.ovpn": "does not begin with a country",
        "japan/x.conf": "is not named like a country",
    }.items():
        assert any(name in one and why in one for one in found.refused), name
    assert len(found.refused) == 10


def test_a_login_that_is_none_or_not_private_is_told(tmp_path: Path) -> None:
    put(tmp_path / "jp-1.ovpn", OPENVPN)
    put(tmp_path / "auth.txt", "hidden-user")
    assert scan(tmp_path).refused == ("auth.txt: two lines are expected: the user, then the password",)
    put(tmp_path / "auth.txt", "user\nhidden\n", 0o644)
    (why,) = scan(tmp_path).refused
    assert "everybody may read or change it" in why
    assert "hidden" not in why


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    put(tmp_path / "jp-1.conf", WIREGUARD)
    first = scan(tmp_path)
    assert scan(tmp_path, first) is first
    put(tmp_path / "jp-2.conf", WIREGUARD)
    second = scan(tmp_path, first)
    assert len(second.entries) == 2
    put(tmp_path / "jp-2.conf", WIREGUARD.replace("198.18.0.7", "198.18.0.8"))
    assert scan(tmp_path, second) is not second
    os.unlink(tmp_path / "jp-2.conf")
    assert len(scan(tmp_path, second).entries) == 1


PIECES = st.sampled_from([*OPENVPN.encode().splitlines(), *WIREGUARD.encode().splitlines(), b"up x", b"PostUp = x"])


@given(
    st.binary(max_size=200) | st.lists(PIECES | st.binary(max_size=20), max_size=20).map(b"\n".join),
    st.sampled_from(["jp-1.ovpn", "jp-1.conf", "jp-1.auth", "auth.txt"]),
)
def test_any_bytes_are_a_file_or_refused(content: bytes, name: str) -> None:
    with TemporaryDirectory() as top:
        put(Path(top) / "jp-0.ovpn", OPENVPN)
        put(Path(top) / "jp-2.conf", WIREGUARD)
        put(Path(top) / name, "")
        (Path(top) / name).write_bytes(content)
        found = scan(Path(top))
        names = {entry.name for entry in found.entries}
        assert "jp-2.conf" in names
        assert all(len(why) < 400 and "c2VjcmV0" not in why and WG_KEY not in why for why in found.refused)
        assert len(names) + len(found.refused) == len(
            [one for one in os.listdir(top) if one.endswith(("ovpn", "conf"))]
        )


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_FILES", 2)
    for number in range(5):
        put(tmp_path / f"jp-{number}.conf", WIREGUARD)
    found = scan(tmp_path)
    assert len(found.entries) == 2
    assert found.refused == ("3 files more than 2 are left out",)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"custom\.directory .*none: No such file"):
        scan(tmp_path / "none")
    put(tmp_path / "file", "")
    with pytest.raises(ProviderError, match=r"custom\.directory .*file: Not a directory"):
        scan(tmp_path / "file")


def test_account_names_are_plain_and_differ() -> None:
    names = [account_name(source) for source in ("auth.txt", "a/b", "a-b", "a b", "x" * 80, "x" * 81, "ü")]
    assert len(set(names)) == len(names)
    assert all(name.isascii() and "/" not in name and ":" not in name and len(name) < 64 for name in names)
