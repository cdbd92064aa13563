from ipaddress import IPv4Address

from health.agent.killswitch import Endpoint
from health.agent.wireguard import HandshakeAge, fields, settings

ENDPOINT = Endpoint(IPv4Address("198.18.0.11"), 51820, "udp")


def test_the_configuration_message() -> None:
    text = settings(bytes(32), bytes(range(32)), ENDPOINT).decode()
    assert text.startswith("set=1\nprivate_key=" + "00" * 32 + "\n")
    assert text.endswith("\n\n")
    assert fields(text.encode()) == {
        "set": "1",
        "private_key": "00" * 32,
        "replace_peers": "true",
        "public_key": bytes(range(32)).hex(),
        "endpoint": "198.18.0.11:51820",
        "persistent_keepalive_interval": "25",
        "allowed_ip": "0.0.0.0/0",
    }


def test_a_shared_key_belongs_to_the_peer() -> None:
    lines = settings(bytes(32), bytes(range(32)), ENDPOINT, b"s" * 32).decode().splitlines()
    assert lines[lines.index("public_key=" + bytes(range(32)).hex()) + 1] == "preshared_key=" + (b"s" * 32).hex()
    assert not any("preshared" in line for line in settings(bytes(32), bytes(32), ENDPOINT).decode().splitlines())


def test_fields_of_an_answer() -> None:
    assert fields(b"last_handshake_time_sec=5\nrx_bytes=7\nerrno=0\n\n") == {
        "last_handshake_time_sec": "5",
        "rx_bytes": "7",
        "errno": "0",
    }
    assert fields(b"\xff\n\n") != {}


def test_the_age_of_a_handshake_goes_by_the_time_it_was_seen() -> None:
    age = HandshakeAge()
    assert age.update({}, 10.0) is None
    assert age.update({"last_handshake_time_sec": "0", "last_handshake_time_nsec": "0"}, 11.0) is None
    first = {"last_handshake_time_sec": "1795402311", "last_handshake_time_nsec": "5"}
    assert age.update(first, 12.0) == 0
    assert age.update(first, 15.5) == 3.5
    assert age.update({**first, "last_handshake_time_nsec": "6"}, 16.0) == 0
