"""The lab's images: a Debian base (pulled where a registry answers, else made with debootstrap), the servers' image on
top of it, and the product's exit image.

An engine of the lab's own loses its images with `lab down`; they are kept as one archive in the user's cache directory,
so that the next `lab up` is quick.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import docker.errors

from deploy.exit.build import BuildError, build_exit_image
from deploy.lab import packages
from deploy.lab.engine import Engine
from deploy.lab.shell import LabError, run

SUITE = "bookworm"
PUBLIC_BASE = f"debian:{SUITE}-slim"
OWN_BASE = f"vpnexit-base:{SUITE}"
SERVER = "vpnexit-lab"
EXIT = "vpnexit-exit"
DIGEST_LABEL = "io.vpnexit.digest"
INSIDE = Path(__file__).parent / "inside"
PULL_TIMEOUT_S = 90.0
BUILD_TIMEOUT_S = 600.0
DEFAULT_MIRROR = "http://deb.debian.org/debian"
# Not needed by any program in a container, and half of the base's size.
SKIPPED = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "var/cache/apt", "var/lib/apt/lists")


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/vpnexit`, else `~/.cache/vpnexit`, after the XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vpnexit"


def has_image(engine: Engine, name: str) -> bool:
    return bool(engine.docker("image", "ls", "--quiet", name).strip())


def ensure(engine: Engine, progress: Callable[[str], None]) -> None:
    """Give the engine all images of this version of the lab.

    Raises:
        LabError: one could be neither loaded nor pulled nor built; the text says why.
    """
    if engine.own and not has_image(engine, SERVER):
        _load(engine)
    before = _identities(engine)
    progress("base image")
    name = base(engine)
    progress("server image")
    _ensure_server(engine, name)
    progress("exit image")
    _ensure_exit(engine, name, progress)
    if engine.own and (_identities(engine) != before or not _archive(engine).exists()):
        progress("keeping the images for the next time")
        _keep(engine, [name, SERVER, EXIT])


def base(engine: Engine) -> str:
    """The name of a Debian base image that the engine has now. Raises LabError."""
    for name in (PUBLIC_BASE, OWN_BASE):
        if has_image(engine, name):
            return name
    kept = cache_dir() / f"base-{SUITE}-{_architecture(engine)}.tar"
    if not kept.exists():
        try:
            engine.docker("pull", "--quiet", PUBLIC_BASE, timeout=PULL_TIMEOUT_S)
            return PUBLIC_BASE
        except LabError as error:
            _bootstrap(kept, str(error))
    engine.docker("import", kept, OWN_BASE, timeout=BUILD_TIMEOUT_S)
    return OWN_BASE


def remove(engine: Engine) -> None:
    """Remove the servers' image from an engine that is not the lab's own; the others are of use without the lab."""
    if has_image(engine, SERVER):
        engine.docker("image", "rm", "--force", SERVER)


def _ensure_server(engine: Engine, base_name: str) -> None:
    digest = tree_digest(INSIDE)
    if _digest_of(engine, SERVER) == digest:
        return
    with tempfile.TemporaryDirectory(prefix="vpnexit-lab-") as directory:
        shutil.copytree(INSIDE, Path(directory, "inside"), ignore=shutil.ignore_patterns("__pycache__"))
        # Packages come through the host's own network: it is the one that is known to reach a mirror.
        engine.docker(
            "build",
            *("--network", "host", "--quiet", "--tag", SERVER, "--file", Path(directory, "inside", "Dockerfile")),
            # Packages of an image that was loaded are used again where only files changed.
            *(("--cache-from", SERVER) if has_image(engine, SERVER) else ()),
            *("--build-arg", f"BASE={base_name}", "--label", f"{DIGEST_LABEL}={digest}"),
            *(part for proxy in _proxies() for part in ("--build-arg", proxy)),
            directory,
            timeout=BUILD_TIMEOUT_S,
        )


def _ensure_exit(engine: Engine, base_name: str, progress: Callable[[str], None]) -> None:
    client = docker.DockerClient(base_url=engine.host, timeout=BUILD_TIMEOUT_S)
    try:
        build_exit_image(client, EXIT, base_name, progress, cache=cache_dir())
    except (BuildError, docker.errors.DockerException) as error:
        raise LabError(f"the exit image could not be built: {error}") from None
    finally:
        client.close()


def _identities(engine: Engine) -> list[str]:
    return sorted(engine.docker("image", "ls", "--quiet", "--no-trunc").split())


def _keep(engine: Engine, names: list[str]) -> None:
    """Save images that share layers, and their names, in the cache."""
    cache_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    with _whole(_archive(engine)) as file:
        engine.docker("save", "--output", file, *names, timeout=BUILD_TIMEOUT_S)


def _load(engine: Engine) -> None:
    archive = _archive(engine)
    if archive.exists():
        try:
            engine.docker("load", "--quiet", "--input", archive, timeout=BUILD_TIMEOUT_S)
        except LabError:
            archive.unlink(missing_ok=True)


def _archive(engine: Engine) -> Path:
    return cache_dir() / f"images-{_architecture(engine)}.tar"


def tree_digest(root: Path) -> str:
    """A digest of the names and contents of all files below `root`."""
    found = hashlib.sha256(SUITE.encode())
    for file in sorted(path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        found.update(f"\0{file.relative_to(root)}\0".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def mirror() -> str:
    """The Debian mirror that this machine's own apt uses, else the public one."""
    try:
        shown = run(
            ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(CODENAME)|$(REPO_URI)", "Created-By: Packages"]
        )
    except LabError:
        return DEFAULT_MIRROR
    for line in shown.splitlines():
        origin, _, rest = line.partition("|")
        codename, _, uri = rest.partition("|")
        if origin == "Debian" and codename == SUITE and uri.startswith(("http://", "https://")):
            return uri.rstrip("/")
    return DEFAULT_MIRROR


def _bootstrap(target: Path, why: str) -> None:
    if not packages.is_debian():
        raise LabError(f"{PUBLIC_BASE} could not be pulled ({why}), and only Debian can make it with debootstrap")
    packages.ensure({"debootstrap": "debootstrap"}, "making the base image")
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="vpnexit-base-") as directory:
        source = mirror()
        run(["debootstrap", "--variant=minbase", SUITE, directory, source], timeout=BUILD_TIMEOUT_S)
        Path(directory, "etc/apt/sources.list").write_text(f"deb {source} {SUITE} main\n")
        skipped = [f"--exclude=./{path}/*" for path in SKIPPED]
        with _whole(target) as file:
            run(["tar", "--create", "--file", file, "--directory", directory, *skipped, "."], timeout=BUILD_TIMEOUT_S)


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A file to write that becomes `target` only when the block ends well."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".new-") as directory:
        file = Path(directory, "file")
        yield file
        file.replace(target)


def _digest_of(engine: Engine, name: str) -> str:
    """What `name` was labelled with when it was built; empty where there is no such image."""
    try:
        shown = engine.docker("image", "inspect", "--format", f'{{{{index .Config.Labels "{DIGEST_LABEL}"}}}}', name)
    except LabError:
        return ""
    return shown.strip()


def _architecture(engine: Engine) -> str:
    return engine.docker("version", "--format", "{{.Server.Arch}}").strip()


def _proxies() -> list[str]:
    """The names of the proxy variables that are set: Docker hands their values into the build by itself."""
    names = ("http_proxy", "https_proxy", "no_proxy")
    return [name for lower in names for name in (lower, lower.upper()) if os.environ.get(name)]
