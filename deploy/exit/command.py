"""`vpnexit image`: build the exit image with the Docker Engine that exits are to run on."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import docker
import docker.errors
import requests.exceptions

from control.engine.docker import DEFAULT_HOST, reachable
from deploy.exit.build import BuildError, build_exit_image

TIMEOUT_S = 600.0


def build(host: str, tag: str, base: str, progress: Callable[[str], None]) -> None:
    """Build `tag` on `base`, a Debian 12 that is pulled where it is missing. `host` empty: as Docker's own tools do.

    Raises:
        BuildError: Docker is not there, or the build failed.
    """
    where = {"base_url": host} if host else docker.utils.kwargs_from_env()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vpnexit"
    try:
        reachable(where.get("base_url", DEFAULT_HOST))
        with contextlib.closing(docker.DockerClient(version="auto", timeout=TIMEOUT_S, **where)) as client:
            _pull(client, base, progress)
            build_exit_image(client, tag, base, progress, cache=cache)
    except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as error:
        strerror = error.strerror if isinstance(error, OSError) else ""
        why = strerror or " ".join(str(error).split())[:300]
        raise BuildError(f"Docker could not build {tag}: {why}; `vpnexit doctor` says more") from None


def _pull(client: docker.DockerClient, base: str, progress: Callable[[str], None]) -> None:
    try:
        client.images.get(base)
    except docker.errors.ImageNotFound:
        progress(f"pulling {base}")
        client.images.pull(base)
