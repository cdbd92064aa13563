"""Docker: does it answer, is it new enough, do exits outlive its restart, are their image and network there?"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import docker
import docker.errors
import requests.exceptions

from control.engine.docker import DEFAULT_HOST, reachable
from deploy.doctor.model import Finding, failed, ok

OLDEST = (20, 10)
_LIVE_RESTORE = "live-restore"
_NO_EXITS = "No VPN exit can be started."


@dataclass(frozen=True, slots=True)
class Seen:
    """`fault` says why Docker could not be asked; the rest is then empty."""

    host: str
    fault: str = ""
    version: str = ""
    live_restore: bool = False
    swarm: bool = False
    image: str = ""
    image_there: bool = False
    network: str = ""
    network_there: bool = False


def look(host: str, timeout: float, image: str, network: str) -> Seen:
    """Ask the engine at `host` (empty: DOCKER_HOST, else the default socket)."""
    where: dict[str, Any] = {"base_url": host} if host else docker.utils.kwargs_from_env()
    shown = str(where.get("base_url", DEFAULT_HOST))
    try:
        reachable(shown)
        with contextlib.closing(docker.APIClient(version="auto", timeout=timeout, **where)) as client:
            info = client.info()
            return Seen(
                host=shown,
                version=str(client.version().get("Version", "")),
                live_restore=info.get("LiveRestoreEnabled") is True,
                swarm=(info.get("Swarm") or {}).get("LocalNodeState", "inactive") != "inactive",
                image=image,
                image_there=_there(lambda: client.inspect_image(image)),
                network=network,
                network_there=_there(lambda: client.inspect_network(network)),
            )
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError) as error:
        return Seen(shown, fault=_why(error))


def judge(seen: Seen) -> Iterator[Finding]:
    if seen.fault:
        yield failed("docker", f"{seen.host} does not answer: {seen.fault}", _NO_EXITS, _how_to_reach(seen))
        return
    yield _version(seen)
    yield _restore(seen)
    if seen.image_there:
        yield ok("image", f"{seen.image} is there")
    else:
        yield failed("image", f"Docker has no image {seen.image}", _NO_EXITS, f"vpnexit image --tag {seen.image}")
    if seen.network_there:
        yield ok("network", f"{seen.network} is there")
    else:
        yield failed(
            "network", f"Docker has no network {seen.network}", _NO_EXITS, f"docker network create {seen.network}"
        )


def _version(seen: Seen) -> Finding:
    found = re.match(r"(\d+)\.(\d+)", seen.version)
    if found is None or (int(found[1]), int(found[2])) >= OLDEST:
        return ok("docker", f"version {seen.version or 'unknown'} at {seen.host}")
    oldest = ".".join(map(str, OLDEST))
    return failed(
        "docker",
        f"version {seen.version} is older than {oldest}",
        "Exits are not tried with it.",
        f"install Docker Engine {oldest} or newer, for example with `apt install docker.io`",
    )


def _restore(seen: Seen) -> Finding:
    if seen.live_restore:
        return ok(_LIVE_RESTORE, "exits go on while Docker restarts")
    meaning = "When the Docker daemon restarts, for example in an update, every exit and all its connections end."
    if seen.swarm:
        return failed(
            _LIVE_RESTORE, "it is off, and cannot be on in a swarm", meaning, "docker swarm leave, then run this again"
        )
    return failed(
        _LIVE_RESTORE,
        "it is off",
        meaning,
        'put "live-restore": true into /etc/docker/daemon.json, then `systemctl reload docker`',
    )


def _how_to_reach(seen: Seen) -> str:
    if "ermission" in seen.fault:
        return "run this as root, or `usermod -aG docker $USER` and log in again"
    return "`systemctl start docker`; or name the right address with control.docker_host or DOCKER_HOST"


def _there(ask: Any) -> bool:
    try:
        ask()
    except docker.errors.NotFound:
        return False
    return True


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if "timed out" in str(error).lower():
        return "no answer in time"
    return " ".join(str(error).split())[:200] or type(error).__name__
