import pytest

from health.agent.openvpn_config import command, refused

PLAIN = """\
# a comment
; another
client
dev tun
remote 198.18.0.21 1194 udp
auth-user-pass auth.txt
setenv opt block-outside-dns
verb 3
<ca>
-----BEGIN CERTIFICATE-----
up looks like a directive, but is inside a file
-----END CERTIFICATE-----
</ca>
<connection>
remote 198.18.0.21 443 tcp
</connection>
"""


def test_a_providers_configuration_is_run() -> None:
    assert refused(PLAIN) is None


@pytest.mark.parametrize(
    "line",
    [
        "up /bin/sh",
        "  up /bin/sh",
        "--up /bin/sh",
        "\tdown x",
        "script-security 2",
        "plugin /x.so",
        "management 127.0.0.1 1",
        "management-client-user x",
        "config other.ovpn",
        "log /tmp/x",
        "user nobody",
        "setenv opt plugin /x.so",
        "tls-verify x",
        "engine dynamic",
    ],
)
@pytest.mark.parametrize("around", ["{}", PLAIN + "{}", "<connection>\n{}\n</connection>", "<ca>\nx\n</ca>\n{}"])
def test_what_could_start_a_program_is_not(line: str, around: str) -> None:
    found = refused(around.format(line) + "\n")
    assert found is not None
    assert "is not allowed" in found


@pytest.mark.parametrize("line", ['"up" /bin/sh', "u\\p x", "'up' x", "UP x", "<CA>", "</ca>", "=x"])
def test_what_is_not_understood_is_not_run_either(line: str) -> None:
    assert refused(f"client\n{line}\n") == "client.ovpn line 2 is not understood"


def test_the_secret_of_a_line_is_not_repeated() -> None:
    assert "hunter2" not in str(refused("askpass hunter2\n"))


def test_our_options_come_after_the_configurations() -> None:
    words = command("openvpn_udp", "/etc/vpnexit", "/run/openvpn.sock", credentials=True)
    assert words[:5] == ["openvpn", "--cd", "/etc/vpnexit", "--config", "client.ovpn"]
    for option in ("--script-security", "--route-noexec", "--ifconfig-noexec", "--disable-dco", "--management-client"):
        assert words.index(option) > words.index("--config")
    assert words[words.index("--script-security") + 1] == "0"
    assert words[words.index("--auth-user-pass") + 1] == "auth.txt"


def test_only_udp_says_goodbye_and_only_with_credentials_it_logs_in() -> None:
    tcp = command("openvpn_tcp", "/d", "/s", credentials=False)
    assert "--explicit-exit-notify" not in tcp
    assert "--auth-user-pass" not in tcp
    assert "--explicit-exit-notify" in command("openvpn_udp", "/d", "/s", credentials=False)
