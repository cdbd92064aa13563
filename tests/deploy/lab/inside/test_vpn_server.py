import subprocess
import sys
from pathlib import Path

import pytest

from deploy.lab import servers, world
from deploy.lab.inside import vpn_server


def test_dns_knows_the_labs_names_and_no_others() -> None:
    settings = servers.settings(world.SERVERS[0])
    lines = vpn_server.dnsmasq_config(settings).splitlines()
    assert "local=/#/" in lines
    assert [line for line in lines if line.startswith("listen-address=")] == [
        f"listen-address={address}" for address in world.TUNNEL_DNS
    ]
    assert f"host-record={world.WHERE_NAME},{world.PLACES['jp'].where}" in lines
    assert [line for line in lines if line.startswith("server=")] == [f"server=/{world.REBINDING_ZONE}/127.0.0.1#5353"]


def test_dns_has_a_line_for_each_address_of_a_name() -> None:
    settings = servers.settings(world.SERVERS[0]) | {"answers": {"mixed.test": ["198.19.10.80", "127.0.0.1"]}}
    lines = vpn_server.dnsmasq_config(settings).splitlines()
    assert lines[-2:] == ["host-record=mixed.test,198.19.10.80", "host-record=mixed.test,127.0.0.1"]


def test_waiting_for_what_does_not_come_ends(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vpn_server, "START_TIMEOUT_S", 0.1)
    with pytest.raises(TimeoutError, match="nothing"):
        vpn_server.wait_for(tmp_path / "nothing")
    vpn_server.wait_for(tmp_path)


def test_an_interface_is_found_by_its_address() -> None:
    assert vpn_server.interface_with("127.0.0.1") == "lo"
    with pytest.raises(ValueError, match="no interface has"):
        vpn_server.interface_with("198.18.255.254")


@pytest.mark.usefixtures("namespaces")
def test_nft_accepts_the_nat_rules() -> None:
    rules = vpn_server.NAT.format(wan=world.WAN_V4, egress="198.19.10.11", tunnel="wg0")
    subprocess.run(["unshare", "-n", "nft", "-c", "-f", "-"], input=rules, text=True, check=True)


def test_nothing_of_the_project_is_needed_inside(tmp_path: Path) -> None:
    """The image has Debian's Python and aiohttp, and these files alone."""
    inside = Path(vpn_server.__file__).parent
    for file in inside.glob("*.py"):
        text = file.read_text()
        for package in ("deploy", "health", "control", "gateway"):
            assert f"from {package}" not in text
            assert f"import {package}" not in text
    done = subprocess.run(
        [sys.executable, "-c", "import inside.check_user, inside.vpn_server"],
        env={"PYTHONPATH": str(inside.parent)},
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0
