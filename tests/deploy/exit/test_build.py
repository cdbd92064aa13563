"""The build context and the locked wheels. The image itself is built and run by the lab's tests."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from deploy.exit import build
from deploy.exit.build import BuildError, build_context, build_exit_image, fetch_wheels, locked_requirements

LOCK = """\
aiodns==4.0.4 \\
    --hash=sha256:aa \\
    --hash=sha256:ab
    # via vpn-exit-controller (pyproject.toml)
aiohttp==3.14.5 \\
    --hash=sha256:ba
cffi==2.1.1 ; platform_python_implementation != 'PyPy' \\
    --hash=sha256:ca
pycares==5.2.1 \\
    --hash=sha256:da
"""


def test_only_the_agents_packages_are_taken_from_the_lock_hashes_included() -> None:
    assert locked_requirements(LOCK).splitlines() == [
        *("aiodns==4.0.4 \\", "    --hash=sha256:aa \\", "    --hash=sha256:ab"),
        *("pycares==5.2.1 \\", "    --hash=sha256:da"),
        *("cffi==2.1.1 ; platform_python_implementation != 'PyPy' \\", "    --hash=sha256:ca"),
    ]


def test_a_lock_without_them_is_an_error() -> None:
    with pytest.raises(BuildError, match="does not name pycares"):
        locked_requirements(LOCK.replace("pycares", "other"))


def test_the_projects_own_lock_has_them() -> None:
    locked = locked_requirements((Path(build.__file__).parents[2] / "requirements.lock").read_text())
    assert [line.split("==")[0] for line in locked.splitlines() if "==" in line] == ["aiodns", "pycares", "cffi"]
    assert locked.count("--hash=") > 3


def test_the_context_holds_the_agent_its_wheels_and_nothing_else(tmp_path: Path) -> None:
    wheel = tmp_path / "aiodns-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("aiodns/__init__.py", "x = 1\n")
    context = build_context([wheel])
    with tarfile.open(fileobj=io.BytesIO(context)) as tar:
        names = set(tar.getnames())
    assert {"Dockerfile", "site/aiodns/__init__.py", "site/health/__init__.py", "site/health/agent/init.py"} <= names
    rest = {name for name in names if not name.startswith(("site/health/agent/", "site/aiodns/"))}
    assert rest == {"Dockerfile", "site/health/__init__.py"}
    assert context == build_context([wheel])


def test_wheels_are_fetched_once_and_anew_when_the_lock_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def download(directory: Path, _machine: str, locked: str) -> None:
        fetched.append(locked)
        (directory / f"aiodns-{len(fetched)}-py3-none-any.whl").touch()

    monkeypatch.setattr(build, "_download", download)
    said: list[str] = []
    first = fetch_wheels(tmp_path / "wheels", "x86_64", said.append)
    assert fetch_wheels(tmp_path / "wheels", "x86_64", said.append) == first
    assert len(fetched) == len(said) == 1
    (tmp_path / "wheels" / "requirements.txt").write_text("older\n")
    assert [wheel.name for wheel in fetch_wheels(tmp_path / "wheels", "x86_64", said.append)] == [
        "aiodns-2-py3-none-any.whl"
    ]


class Image:
    def __init__(self, identity: str, labels: dict[str, str]) -> None:
        self.id = identity
        self.labels = labels


class StubDocker:
    """A Docker Engine that notes what it is asked to build."""

    def __init__(self, events: list[dict[str, str]], architecture: str = "x86_64") -> None:
        self.known = {"debian:x": Image("sha256:base", {})}
        self.builds: list[dict[str, object]] = []
        self.images = self.api = self
        self._events = events
        self._architecture = architecture

    def info(self) -> dict[str, str]:
        return {"Architecture": self._architecture}

    def get(self, name: str) -> Image:
        if name not in self.known:
            raise build.ImageNotFound("no such image")
        return self.known[name]

    def build(self, **options: object) -> list[dict[str, str]]:
        self.builds.append(options)
        self.known[str(options["tag"])] = Image("sha256:new", options["labels"])  # type: ignore[arg-type]
        return self._events


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "fetch_wheels", lambda *_: [])


def test_an_image_of_the_same_sources_is_not_built_again(no_wheels: None, tmp_path: Path) -> None:
    client, said = StubDocker([{"stream": "Step 1/9 : ARG BASE\n"}, {"stream": "\n"}]), []
    for _ in range(2):
        build_exit_image(client, "vpnexit-exit", "debian:x", said.append, cache=tmp_path)  # type: ignore[arg-type]
    assert len(client.builds) == 1
    assert said == ["building image vpnexit-exit", "Step 1/9 : ARG BASE", "image vpnexit-exit is up to date"]
    client.known["debian:x"] = Image("sha256:another", {})
    build_exit_image(client, "vpnexit-exit", "debian:x", said.append, cache=tmp_path)  # type: ignore[arg-type]
    assert len(client.builds) == 2


def test_what_the_build_says_went_wrong_is_told(no_wheels: None, tmp_path: Path) -> None:
    client = StubDocker([{"error": "apt-get returned 100\n"}])
    with pytest.raises(BuildError, match="building vpnexit-exit: apt-get returned 100"):
        build_exit_image(client, "vpnexit-exit", "debian:x", lambda _: None, cache=tmp_path)  # type: ignore[arg-type]


def test_a_machine_there_are_no_wheels_for(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no exit image for riscv64 machines"):
        build_exit_image(StubDocker([], "riscv64"), "x", "y", lambda _: None, cache=tmp_path)  # type: ignore[arg-type]
