from pathlib import Path

import pytest

from deploy.lab import images
from deploy.lab.engine import Engine
from deploy.lab.shell import LabError


class _Engine(Engine):
    """Answers `docker` from a table of command prefixes, and notes what it was asked."""

    def __new__(cls, *_: object) -> "_Engine":
        return object.__new__(cls)

    def __init__(self, answers: dict[str, str | Exception]) -> None:
        super().__init__("unix:///nonexistent.sock", own=True)
        object.__setattr__(self, "table", answers)
        object.__setattr__(self, "asked", [])

    def docker(self, *arguments: object, timeout: float = 0, stdin: str | None = None) -> str:
        line = " ".join(map(str, arguments))
        self.asked.append(line)  # type: ignore[attr-defined]
        for prefix, answer in self.table.items():  # type: ignore[attr-defined]
            if line.startswith(prefix):
                if isinstance(answer, Exception):
                    raise answer
                return str(answer)
        return ""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vpnexit"


def test_the_digest_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    first = images.tree_digest(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    assert images.tree_digest(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    second = images.tree_digest(tmp_path)
    (tmp_path / "b").write_text("two")
    assert len({first, second, images.tree_digest(tmp_path)}) == 3


def test_a_base_that_is_there_is_used() -> None:
    engine = _Engine({f"image ls --quiet {images.OWN_BASE}": "abc"})
    assert images.base(engine) == images.OWN_BASE
    assert not [line for line in engine.asked if line.startswith("pull")]  # type: ignore[attr-defined]


def test_the_base_is_pulled_where_a_registry_answers() -> None:
    assert images.base(_Engine({"version": "amd64"})) == images.PUBLIC_BASE


def test_a_base_that_was_made_before_is_imported(cache: Path) -> None:
    cache.mkdir()
    (cache / f"base-{images.SUITE}-amd64.tar").write_text("")
    engine = _Engine({"version": "amd64", "pull": LabError("no registry")})
    assert images.base(engine) == images.OWN_BASE
    assert engine.asked[-1].startswith("import")  # type: ignore[attr-defined]


def test_without_registry_and_debian_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.packages, "is_debian", lambda: False)
    with pytest.raises(LabError, match=r"could not be pulled \(no registry\)"):
        images.base(_Engine({"version": "amd64", "pull": LabError("no registry")}))


def test_an_archive_that_cannot_be_loaded_is_thrown_away(cache: Path) -> None:
    cache.mkdir()
    archive = cache / "images-amd64.tar"
    archive.write_text("not a tar")
    images._load(_Engine({"version": "amd64", "load": LabError("broken")}))
    assert not archive.exists()


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    def interrupted() -> None:
        with images._whole(tmp_path / "target") as file:
            file.write_text("half")
            raise LabError("interrupted")

    with pytest.raises(LabError, match="interrupted"):
        interrupted()
    assert list(tmp_path.iterdir()) == []
    with images._whole(tmp_path / "target") as file:
        file.write_text("whole")
    assert (tmp_path / "target").read_text() == "whole"


@pytest.mark.parametrize(
    ("shown", "mirror"),
    [
        ("Debian|bookworm|http://mirror.example/debian/", "http://mirror.example/debian"),
        ("Other|bookworm|http://other.example\nDebian|trixie|http://new.example", images.DEFAULT_MIRROR),
        ("Debian|bookworm|cdrom:[disk]", images.DEFAULT_MIRROR),
        ("", images.DEFAULT_MIRROR),
    ],
)
def test_the_mirror_is_the_machines_own(shown: str, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "run", lambda *_, **__: shown)
    assert images.mirror() == mirror
