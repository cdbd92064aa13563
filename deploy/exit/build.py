"""Build the exit image: a build context with the agent and its wheels, and the Docker build itself.

The wheels are fetched outside, by pip with the versions and hashes of requirements.lock, since a container under
construction may have neither an index nor the certificates to reach one.
"""

import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import docker
from docker.errors import ImageNotFound

SOURCE_LABEL = "io.vpnexit.source"
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("aiodns", "pycares", "cffi")
_PYTHON = "3.11"  # of Debian 12
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class BuildError(Exception):
    """The image could not be built; the text says what failed."""


def build_exit_image(
    client: docker.DockerClient, tag: str, base: str, progress: Callable[[str], None], *, cache: Path
) -> None:
    """Build `tag` on the image `base` (Debian 12), unless it is there already from the same sources.

    `cache` is a directory that keeps the wheels. `progress` gets one line of text at a time. Raises BuildError,
    docker.errors.DockerException.
    """
    machine = _machine(client)
    wheels = fetch_wheels(cache / f"wheels-{machine}", machine, progress)
    context = build_context(wheels)
    source = hashlib.sha256(context + _image_id(client, base).encode()).hexdigest()
    if _label(client, tag) == source:
        progress(f"image {tag} is up to date")
        return
    progress(f"building image {tag}")
    for event in client.api.build(
        fileobj=io.BytesIO(context),
        custom_context=True,
        tag=tag,
        # Packages come through the host's own network: an engine may have no default bridge.
        network_mode="host",
        # Where only sources changed, the packages of the image that is there are used again, a loaded one's too.
        cache_from=[tag] if _label(client, tag) is not None else None,
        buildargs={"BASE": base, **_proxies()},
        labels={SOURCE_LABEL: source},
        rm=True,
        forcerm=True,
        decode=True,
    ):
        if "error" in event:
            raise BuildError(f"building {tag}: {str(event['error']).strip()}")
        line = str(event.get("stream", "")).strip()
        if line:
            progress(line)


def fetch_wheels(directory: Path, machine: str, progress: Callable[[str], None]) -> list[Path]:
    """The locked wheels of what the agent needs, downloaded into `directory` if need be. Raises BuildError."""
    locked = locked_requirements((_ROOT / "requirements.lock").read_text())
    directory.mkdir(parents=True, exist_ok=True)
    requirements = directory / "requirements.txt"
    if not requirements.exists() or requirements.read_text() != locked:
        progress(f"fetching wheels: {', '.join(_PACKAGES)}")
        for old in directory.glob("*.whl"):
            old.unlink()
        _download(directory, machine, locked)
        requirements.write_text(locked)
    return sorted(directory.glob("*.whl"))


def locked_requirements(lock: str) -> str:
    """The part of a lock file that is about the agent's packages, hashes included. Raises BuildError."""
    parts = []
    for name in _PACKAGES:
        found = re.search(rf"^{name}==[^\n]*(?:\n    --hash=[^\n]*)*\n", lock, re.MULTILINE)
        if found is None:
            raise BuildError(f"requirements.lock does not name {name}")
        parts.append(found[0].rstrip("\\\n ") + "\n")
    return "".join(parts)


def build_context(wheels: list[Path]) -> bytes:
    """The build context as a tar archive: the same bytes for the same sources."""
    files = {"Dockerfile": (_ROOT / "deploy/exit/Dockerfile").read_bytes()}
    sources = [_ROOT / "health/__init__.py", *(_ROOT / "health/agent").glob("*.py")]
    files |= {f"site/{source.relative_to(_ROOT)}": source.read_bytes() for source in sources}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            files |= {f"site/{name}": archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(files[name])
            tar.addfile(entry, io.BytesIO(files[name]))
    return out.getvalue()


def _download(directory: Path, machine: str, locked: str) -> None:
    wanted = directory / "wanted.txt"
    wanted.write_text(locked)
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in (36, 28, 26, 17)] + [f"manylinux2014_{machine}"]
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--require-hashes", "--only-binary=:all:"),
                *("--implementation", "cp", "--python-version", _PYTHON),
                *(part for platform in platforms for part in ("--platform", platform)),
                *("--dest", str(directory), "--requirement", str(wanted)),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BuildError("pip took longer than 300 s to fetch the agent's wheels") from None
    finally:
        wanted.unlink()
    if done.returncode:
        raise BuildError(f"pip could not fetch the agent's wheels: {done.stderr.strip()[-500:]}")


def _proxies() -> dict[str, str]:
    """The proxy variables that are set, for apt-get inside the build; Docker keeps them out of the image."""
    names = ("http_proxy", "https_proxy", "no_proxy")
    return {name: os.environ[name] for lower in names for name in (lower, lower.upper()) if os.environ.get(name)}


def _machine(client: docker.DockerClient) -> str:
    architecture = str(client.info()["Architecture"])
    if architecture not in _MACHINES:
        raise BuildError(f"no exit image for {architecture} machines")
    return _MACHINES[architecture]


def _image_id(client: docker.DockerClient, image: str) -> str:
    return str(client.images.get(image).id)


def _label(client: docker.DockerClient, tag: str) -> str | None:
    try:
        found = client.images.get(tag).labels.get(SOURCE_LABEL)
    except ImageNotFound:
        return None
    return None if found is None else str(found)
