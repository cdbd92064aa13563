"""Control's settings: defaults, and one clear line for each wrong value."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from control.config import (
    ControlSettings,
    CustomSettings,
    NordVpnAccount,
    NordVpnSettings,
    insights_url,
    probe_name,
    split_listen,
)


def test_defaults() -> None:
    settings = ControlSettings()
    assert (settings.listen, settings.engine, settings.provider) == ("127.0.0.1:8080", "docker", "nordvpn")
    assert settings.machine
    assert (settings.start_timeout, settings.verify_interval, settings.drain_deadline) == (30, 60, 30)
    nordvpn = NordVpnSettings()
    assert insights_url(settings, nordvpn) == "https://api.nordvpn.com/v1/helpers/ips/insights"
    assert probe_name(settings, nordvpn) == "api.nordvpn.com"
    assert [str(address) for address in nordvpn.dns] == ["103.86.96.100", "103.86.99.100"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))],
)
def test_listen(text: str, expected: tuple[str, int]) -> None:
    assert split_listen(text) == expected


@pytest.mark.parametrize("text", ["", "8080", ":8080", "::1:8080", "a:b", "a:65536", "a:-1", "a b:80", "[x]:1"])
def test_listen_nonsense(text: str) -> None:
    with pytest.raises(ValidationError, match="is not an address and port"):
        ControlSettings(listen=text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fleet": "-x"},
        {"machine": ""},
        {"engine": "podman"},
        {"direct_nodes": ["xx"]},
        {"insights_url": "nordvpn"},
        {"insights_url": "ftp://a.example/"},
        {"own_addresses": ["a"]},
        {"start_timeout": 0},
        {"tick": 0},
        {"no_such_thing": 1},
    ],
)
def test_wrong_values(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        ControlSettings.model_validate(wrong)


def test_accounts() -> None:
    account = NordVpnAccount(name="one", token_file=Path("token"))
    assert account.slots == 10
    with pytest.raises(ValidationError, match="same name"):
        NordVpnSettings(accounts=(account, account))
    with pytest.raises(ValidationError, match="at least one server"):
        NordVpnSettings(dns=())
    assert NordVpnSettings(api_url="http://198.19.10.90/").api_url == "http://198.19.10.90"


def test_a_numeric_insights_address_needs_a_probe_name() -> None:
    nordvpn = NordVpnSettings(api_url="http://198.19.10.90")
    with pytest.raises(ValueError, match=r"control\.probe_name"):
        probe_name(ControlSettings(), nordvpn)
    assert probe_name(ControlSettings(probe_name="where.lab.example"), nordvpn) == "where.lab.example"
    assert insights_url(ControlSettings(insights_url="http://a.example/x"), nordvpn) == "http://a.example/x"
    assert probe_name(ControlSettings(insights_url="http://a.example/x"), nordvpn) == "a.example"


def test_probe_targets_are_numbers_behind_tunnels() -> None:
    default = ControlSettings().probe_targets
    assert len({target.partition(":")[0] for target in default}) >= 2, "hosts of different people"
    assert ControlSettings(probe_targets=("198.18.0.80:080",)).probe_targets == ("198.18.0.80:80",)
    assert ControlSettings(probe_targets=()).probe_targets == ()
    for wrong in (("dns.example:53",), ("9.9.9.9",), ("127.0.0.1:53",), ("9.9.9.9:0",), ("[2620:fe::fe]:53",)):
        with pytest.raises(ValidationError, match="probe_targets"):
            ControlSettings(probe_targets=wrong)
    with pytest.raises(ValidationError, match="at most 8"):
        ControlSettings(probe_targets=tuple(f"198.18.0.{number}:443" for number in range(9)))


def test_a_folder_of_vpn_files() -> None:
    assert CustomSettings().directory is None
    given = CustomSettings.model_validate({"directory": "/etc/vpnexit/files", "slots": 5, "dns": ["10.0.0.1"]})
    assert (given.slots, [str(address) for address in given.dns]) == (5, ["10.0.0.1"])


@pytest.mark.parametrize(
    "wrong", [{"slots": 0}, {"slots": 101}, {"dns": ["127.0.0.1"]}, {"dns": ["::1"]}, {"timeout": 0}, {"folder": "/x"}]
)
def test_wrong_values_for_a_folder(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="127.0.0.1" if wrong == {"dns": ["127.0.0.1"]} else next(iter(wrong))):
        CustomSettings.model_validate(wrong)
