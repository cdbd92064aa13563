"""The root settings: where values come from, and the one line for each mistake."""

from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from deploy.config import ConfigError, load, variable


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = tmp_path / "vpnexit.toml"
        file.write_text(text)
        return file

    return write


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("VPNEXIT_"):
            monkeypatch.delenv(name)


def fault(file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = load()
    assert settings.state_dir == tmp_path / ".local" / "state" / "vpnexit"
    assert settings.gateway.listen == ("127.0.0.1:3128", "127.0.0.1:1080")
    assert settings.control.listen == "127.0.0.1:8080"


def test_environment_comes_before_the_file(toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    file = toml('[gateway]\nlisten = ["127.0.0.1:1"]\ndial_timeout = 3\n[redis]\ntimeout = 0.5\n')
    monkeypatch.setenv("VPNEXIT_GATEWAY__LISTEN", "127.0.0.1:2")
    settings = load(file)
    assert settings.gateway.listen == ("127.0.0.1:2",)
    assert settings.gateway.dial_timeout == 3
    assert settings.redis.timeout == 0.5


def test_tables_in_lists(toml: Callable[[str], Path]) -> None:
    file = toml('[[nordvpn.accounts]]\nname = "one"\ntoken_file = "/run/secrets/token"\nslots = 6\n')
    assert [(account.name, account.slots) for account in load(file).nordvpn.accounts] == [("one", 6)]


def test_a_folder_of_vpn_files(toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPNEXIT_CUSTOM__SLOTS", "7")
    found = load(toml('[custom]\ndirectory = "/etc/vpnexit/files"\ndns = ["10.0.0.1"]\n')).custom
    assert (found.directory, found.slots, [str(one) for one in found.dns]) == (
        Path("/etc/vpnexit/files"),
        7,
        ["10.0.0.1"],
    )


def test_machine_is_said_once(toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(toml('machine = "m1"\n')).control.machine == "m1"
    assert load(toml('[control]\nmachine = "m2"\n')).control.machine == "m2"
    monkeypatch.setenv("VPNEXIT_MACHINE", "m1")
    assert fault(toml('[control]\nmachine = "m2"\n')) == "machine and control.machine differ: give one of them"


def test_networks_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPNEXIT_GATEWAY__ALLOW_TARGETS", "198.18.0.0/15, 10.0.0.0/8")
    assert load().gateway.allow_targets == (IPv4Network("198.18.0.0/15"), IPv4Network("10.0.0.0/8"))


def test_home_in_the_state_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("VPNEXIT_STATE_DIR", "~/state")
    assert load().state_dir == tmp_path / "state"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[gateway]\nlisen = 1\n", "gateway.lisen (in {file}): there is no such key; did you mean gateway.listen?"),
        ("[gatway]\nlisten = 1\n", "gatway (in {file}): there is no such key; did you mean gateway?"),
        ("gateway = 3\n", "gateway (in {file}): Input should be "),
        ("[gateway]\ndial_timeout = 0\n", "gateway.dial_timeout (in {file}): Input should be greater than 0"),
        ("[gateway]\ndial_timeout = 0\nlisten = 3\n", " (and 1 more)"),
        ('[[nordvpn.accounts]]\nname = "x"\n', "nordvpn.accounts.0.token_file (in {file}): Field required"),
        ("[gateway\n", "{file} is not TOML: Expected ']' at the end of a table declaration (at line 1, column 9)"),
        (
            'log_level = "loud"\n',
            "log_level (in {file}): Input should be 'debug', 'info', 'warning' or 'error' (it is ",
        ),
    ],
)
def test_mistakes_in_the_file(toml: Callable[[str], Path], text: str, expected: str) -> None:
    file = toml(text)
    assert expected.format(file=file) in fault(file)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert fault(missing) == f"cannot read the configuration file {missing}: No such file or directory"
    assert fault(tmp_path) == f"cannot read the configuration file {tmp_path}: Is a directory"
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    assert fault(binary) == f"cannot read the configuration file {binary}: it is not UTF-8 text"


def test_mistakes_in_the_environment_name_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPNEXIT_GATEWAY__LISTEN", "127.0.0.1:1,nonsense")
    assert fault().startswith("gateway.listen.1 (from VPNEXIT_GATEWAY__LISTEN): 'nonsense' is not an address")


@pytest.mark.parametrize(
    "secret", ["changeme", "Change-Me!", "password", "PASSWORD1", "secret", "admin", "<token>", "xxx"]
)
def test_placeholders_are_refused(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    monkeypatch.setenv("VPNEXIT_REDIS__PASSWORD", secret)
    text = fault()
    assert text == "redis.password: this is a placeholder, not a secret: put a random one there"


def test_secrets_come_from_files_and_are_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toml: Callable[[str], Path]
) -> None:
    (tmp_path / "secret").write_text("kT9-long-and-random\n")
    monkeypatch.setenv("VPNEXIT_REDIS__PASSWORD_FILE", str(tmp_path / "secret"))
    settings = load()
    assert settings.redis.password is not None
    assert settings.redis.password.get_secret_value() == "kT9-long-and-random"
    assert "kT9" not in repr(settings)
    monkeypatch.delenv("VPNEXIT_REDIS__PASSWORD_FILE")
    assert "kT9" not in fault(toml('[redis]\npassword = ["kT9-long-and-random"]\n'))
    assert "kT9" not in fault(toml('[redis]\nurl = "http://user:kT9-long@host"\n'))


@pytest.mark.parametrize("part", ["gateway", "scorer", "collector"])
def test_metrics_beyond_loopback_take_a_token(
    part: str, toml: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = toml(f'[{part}]\nmetrics_listen = "0.0.0.0:9100"\n')
    assert f"{part}.metrics_listen: 0.0.0.0:9100 is beyond loopback" in fault(file)
    (tmp_path / "token").write_text("kT3v-uQ9w2LpX0sZ\n")
    monkeypatch.setenv("VPNEXIT_METRICS__TOKEN_FILE", str(tmp_path / "token"))
    settings = load(file)
    assert settings.metrics.token is not None
    assert settings.metrics.token.get_secret_value() == "kT3v-uQ9w2LpX0sZ"
    assert "kT3v" not in repr(settings)


def test_upstreams_carry_no_password(tmp_path: Path, toml: Callable[[str], Path]) -> None:
    settings = load(
        toml(
            f'state_dir = "{tmp_path}"\n[gateway.machines]\nhall = "socks5://gw@10.0.0.2:1080"\n'
            '[[control.upstreams]]\ncountry = "uk"\nurl = "http://me-session-1@proxy.example:3128"\n'
        )
    )
    assert settings.gateway.machines == {"hall": "socks5://gw@10.0.0.2:1080"}
    assert settings.gateway.upstream_passwords == tmp_path / "upstreams"
    assert [(one.country, one.city) for one in settings.control.upstreams] == [("gb", "")]
    for text in (
        '[gateway.machines]\nhall = "socks5://gw:kT9-long@10.0.0.2:1080"\n',
        '[[control.upstreams]]\ncountry = "uk"\nurl = "http://me:kT9-long@proxy.example:3128"\n',
    ):
        told = fault(toml(text))
        assert "put it into the file" in told
        assert "kT9" not in told
    for user in ("gw-country-jp", "", "a%40b"):
        assert "as one of its users" in fault(toml(f'[gateway.machines]\nhall = "http://{user or "x-"}@h:1"\n'))


def test_names_of_variables() -> None:
    assert variable("gateway", "listen") == "VPNEXIT_GATEWAY__LISTEN"
    assert variable("state_dir") == "VPNEXIT_STATE_DIR"
