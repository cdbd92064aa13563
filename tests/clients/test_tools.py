"""What people run in a shell: wget, git, ssh through ncat and OpenBSD's way, and proxychains."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.world import HOST, NODES, PASSWORD, SITE, Front, World
from tests.gateway.harness import Gateway

PLAIN, TLS = f"http://{SITE}/", f"https://{SITE}/"
both = pytest.mark.parametrize("url", [PLAIN, TLS])
Done = subprocess.CompletedProcess[str]


def run(*command: object, **env: str) -> Done:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env})


def wget(world: World, gateway: Gateway | Front, password: str, url: str) -> Done:
    proxy = f"http://{HOST}:{gateway.port}"
    login = [f"--proxy-user={world.name('jp')}", f"--proxy-password={password}"]
    command = ["wget", "-nv", "-O-", "--tries=1", "--timeout=30", f"--ca-certificate={world.ca}", *login, url]
    return run(*command, http_proxy=proxy, https_proxy=proxy, no_proxy="")


@both
def test_wget(world: World, needs: Callable[..., None], url: str) -> None:
    needs("wget")
    assert wget(world, world.closed, PASSWORD, url).stdout.strip() == NODES["jp"]


@both
def test_wget_with_a_wrong_password(world: World, needs: Callable[..., None], url: str) -> None:
    needs("wget")
    refused = wget(world, world.refusing, "wrong", url)
    assert refused.returncode != 0
    assert refused.stdout == ""
    assert "Proxy Authentication Required" in refused.stderr


def clone(world: World, proxy: str, url: str, into: Path) -> Done:
    env = {"GIT_SSL_CAINFO": world.ca, "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null"}
    return run("git", "-c", f"http.proxy={proxy}", "clone", "-q", url, into, **env)


@pytest.mark.parametrize("url", [f"http://{SITE}:8080/repository.git", f"https://{SITE}/repository.git"])
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_git(world: World, tmp_path: Path, scheme: str, url: str) -> None:
    done = clone(world, world.url(scheme, "de"), url, tmp_path / "clone")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "clone" / "NODE").read_text().strip() == NODES["de"]


def test_git_with_a_wrong_password(world: World, tmp_path: Path) -> None:
    proxy = world.url("http", "de", world.refusing, "wrong")
    refused = clone(world, proxy, f"https://{SITE}/repository.git", tmp_path / "clone")
    assert refused.returncode == 128
    assert "407" in refused.stderr


def ssh(world: World, proxy_command: str) -> Done:
    """Log in behind the exit and say which it is."""
    settings = (
        f"ProxyCommand={proxy_command}",
        f"IdentityFile={world.directory / 'client_key'}",
        f"UserKnownHostsFile={world.directory / 'known_hosts'}",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        "ConnectTimeout=30",
    )
    return run("ssh", "-F", "none", *(f"-o{setting}" for setting in settings), f"root@{SITE}", "echo $NODE")


def ncat(world: World, gateway: Gateway | Front, kind: str, login: str) -> str:
    auth = f"--proxy-auth {shlex.quote(login)}" if login else ""
    return f"ncat --proxy {HOST}:{gateway.port} --proxy-type {kind} {auth} --proxy-dns remote %h %p"


@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_ssh_through_ncat(world: World, needs: Callable[..., None], kind: str) -> None:
    needs("ssh", "ncat")
    done = ssh(world, ncat(world, world.closed, kind, f"{world.name('jp')}:{PASSWORD}"))
    assert done.stdout.strip() == NODES["jp"], done.stderr


def test_ssh_through_ncat_and_socks4(world: World, needs: Callable[..., None]) -> None:
    needs("ssh", "ncat")
    done = ssh(world, ncat(world, world.open, "socks4", world.name("de")))
    assert done.stdout.strip() == NODES["de"], done.stderr


@pytest.mark.parametrize(("kind", "said"), [("http", "407"), ("socks5", "failed")])
def test_ssh_with_a_wrong_password(world: World, needs: Callable[..., None], kind: str, said: str) -> None:
    needs("ssh", "ncat")
    refused = ssh(world, ncat(world, world.refusing, kind, f"{world.name('jp')}:wrong"))
    assert refused.returncode == 255
    assert said in refused.stderr


def proxychains(world: World, tmp_path: Path, line: str, url: str) -> Done:
    config = tmp_path / "proxychains.conf"
    config.write_text(f"strict_chain\nproxy_dns\ntcp_connect_time_out 20000\n[ProxyList]\n{line}\n")
    return run("proxychains4", "-q", "-f", config, "curl", "-sS", "-m", "30", "--cacert", world.ca, url)


@both
@pytest.mark.parametrize("kind", ["http", "socks5"])
def test_proxychains(world: World, needs: Callable[..., None], tmp_path: Path, kind: str, url: str) -> None:
    needs("proxychains4")
    line = f"{kind} {HOST} {world.closed.port} {world.name('de')} {PASSWORD}"
    assert proxychains(world, tmp_path, line, url).stdout.strip() == NODES["de"]


def test_proxychains_by_socks4(world: World, needs: Callable[..., None], tmp_path: Path) -> None:
    needs("proxychains4")
    line = f"socks4 {HOST} {world.open.port} {world.name('jp')}"
    assert proxychains(world, tmp_path, line, PLAIN).stdout.strip() == NODES["jp"]


def test_proxychains_with_a_wrong_password(world: World, needs: Callable[..., None], tmp_path: Path) -> None:
    needs("proxychains4")
    for kind in ("http", "socks5"):
        refused = proxychains(world, tmp_path, f"{kind} {HOST} {world.refusing.port} {world.name('de')} wrong", PLAIN)
        assert refused.returncode == 7  # curl: could not connect
        assert refused.stdout == ""
