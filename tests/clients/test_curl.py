"""curl, with every proxy scheme and form of authentication that it has."""

import subprocess
from collections.abc import Sequence

import pytest

from tests.clients.world import HOST, NODES, PASSWORD, PROXY_NAME, SITE, World
from tests.gateway.harness import curl

PLAIN, TLS = f"http://{SITE}/", f"https://{SITE}/"
HTTP_FORMS = {
    "in the URL": (),
    "basic": ("--proxy-basic",),
    "any": ("--proxy-anyauth",),
    "tunnel": ("--proxytunnel",),
}
Answer = subprocess.CompletedProcess[str]


def ask(world: World, arguments: Sequence[str], url: str, *more: str) -> Answer:
    return curl("--cacert", world.ca, "-w", "\n%{http_code} %{http_connect}", *arguments, *more, url)


def came_from(country: str, answer: Answer) -> bool:
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()[0] == NODES[country]


@pytest.mark.parametrize("country", NODES)
@pytest.mark.parametrize("url", [PLAIN, TLS])
@pytest.mark.parametrize("form", HTTP_FORMS)
def test_http_proxy(world: World, form: str, url: str, country: str) -> None:
    assert came_from(country, ask(world, ["-x", world.url("http", country), *HTTP_FORMS[form]], url))


@pytest.mark.parametrize("url", [PLAIN, TLS])
def test_user_option_and_old_http(world: World, url: str) -> None:
    proxy, user = f"{HOST}:{world.closed.port}", f"{world.name('jp')}:{PASSWORD}"
    assert came_from("jp", ask(world, ["-x", proxy, "-U", user], url))
    assert came_from("jp", ask(world, ["--proxy1.0", proxy, "-U", user], url))


@pytest.mark.parametrize("url", [PLAIN, TLS])
def test_proxy_over_tls(world: World, url: str) -> None:
    proxy = f"https://{HOST}:{world.tls.port}"
    answer = ask(world, ["-x", proxy, "-U", f"{world.name('de')}:{PASSWORD}", "--proxy-cacert", world.ca], url)
    assert came_from("de", answer)


@pytest.mark.parametrize("url", [PLAIN, TLS])
@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_socks5(world: World, scheme: str, url: str) -> None:
    here = ["--resolve", f"{SITE}:80:{HOST}", "--resolve", f"{SITE}:443:{HOST}"] if scheme == "socks5" else []
    for form in ([], ["--socks5-basic"]):
        assert came_from("de", ask(world, ["-x", world.url(scheme, "de"), *form, *here], url))
    bare = f"{HOST}:{world.closed.port}"
    option = "--socks5" if scheme == "socks5" else "--socks5-hostname"
    assert came_from("jp", ask(world, [option, bare, "-U", f"{world.name('jp')}:{PASSWORD}", *here], url))


@pytest.mark.parametrize("url", [PLAIN, TLS])
@pytest.mark.parametrize("scheme", ["socks4", "socks4a"])
def test_socks4_says_its_want_in_the_user_id(world: World, scheme: str, url: str) -> None:
    here = ["--resolve", f"{SITE}:80:{HOST}", "--resolve", f"{SITE}:443:{HOST}"] if scheme == "socks4" else []
    proxy = f"{scheme}://{world.name('de')}@{HOST}:{world.open.port}"
    assert came_from("de", ask(world, ["-x", proxy, *here], url))


def test_environment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", world.url("http", "jp"))
    monkeypatch.setenv("ALL_PROXY", world.url("socks5h", "de"))
    assert came_from("jp", ask(world, [], PLAIN))
    assert came_from("de", ask(world, [], TLS))


def test_a_port_that_means_a_country(world: World) -> None:
    for scheme in ("http", "socks5h"):
        assert came_from("de", ask(world, ["-x", f"{scheme}://{HOST}:{world.ports.port}"], PLAIN))


def test_a_server_name_that_means_a_country(world: World) -> None:
    here = f"{PROXY_NAME}:{world.names.port}"
    proxy = ["-x", f"https://{here}", "--proxy-cacert", world.ca, "--resolve", f"{here}:{HOST}"]
    assert came_from("jp", ask(world, proxy, PLAIN))
    refused = ask(world, [*proxy, "-U", f"{world.name('de')}:"], PLAIN)
    assert refused.stdout.endswith("\n400 000")
    assert "must agree" in refused.stdout


def test_a_large_upload_and_download(world: World) -> None:
    """curl announces it with `Expect: 100-continue`, and waits a second where nobody answers that."""
    sent = world.directory / "upload"
    sent.write_bytes(bytes(range(256)) * 8192)
    for scheme in ("http", "socks5h"):
        got = world.directory / f"download-{scheme}"
        upload = ["--data-binary", f"@{sent}", "-o", str(got), "-w", "%{time_total}"]
        seconds = []
        for _ in range(3):
            answer = curl("-x", world.url(scheme, "jp"), *upload, f"http://{SITE}:8080/")
            assert answer.returncode == 0, answer.stderr
            assert got.read_bytes() == sent.read_bytes()
            seconds.append(float(answer.stdout))
        assert min(seconds) < 1


def test_wrong_passwords(world: World) -> None:
    plain = ask(world, ["-x", world.url("http", "jp", world.refusing, "wrong")], PLAIN)
    assert plain.stdout.endswith("\n407 000")
    assert "user name or password is wrong" in plain.stdout
    tunnel = ask(world, ["-x", world.url("http", "jp", world.refusing, "wrong")], TLS)
    assert (tunnel.returncode, tunnel.stdout) == (56, "\n000 407")
    socks = ask(world, ["-x", world.url("socks5h", "jp", world.refusing, "wrong")], PLAIN)
    assert socks.returncode == 97
    assert "User was rejected by the SOCKS5 server" in socks.stderr


def test_no_password(world: World) -> None:
    assert ask(world, ["-x", f"http://{HOST}:{world.closed.port}"], PLAIN).stdout.endswith("\n407 000")
    assert ask(world, ["-x", f"socks5h://{HOST}:{world.closed.port}"], PLAIN).returncode == 97
    old = ask(world, ["-x", f"socks4a://{world.name('jp')}@{HOST}:{world.closed.port}"], PLAIN)
    assert (old.returncode, old.stdout) == (97, "\n000 000")


@pytest.mark.parametrize("form", ["--proxy-digest", "--proxy-ntlm", "--proxy-negotiate"])
def test_forms_that_are_not_offered_fail_clearly(world: World, form: str) -> None:
    answer = ask(world, ["-x", world.url("http", "jp"), form], PLAIN)
    assert answer.stdout.endswith("\n407 000")
    assert "user name and password" in answer.stdout or "only the Basic scheme" in answer.stdout
    assert NODES["jp"] not in answer.stdout
