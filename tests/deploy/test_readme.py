"""Every command of README.md is run: those for `make up` here, the lab's in tests/lab/test_readme_lab.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.readme import HOW, README, blocks

ROOT = Path(__file__).parents[2]


def test_every_block_of_commands_says_how_it_is_tested() -> None:
    found = blocks()
    assert len(found) == README.read_text().count("```sh\n") + README.read_text().count("```python\n")
    assert {block.how for block in found} == set(HOW)
    assert len(blocks("start")) == 1


def test_named_make_targets_exist() -> None:
    words = [line.split() for block in blocks("dry") for line in block.text.splitlines()]
    assert words
    for program, *targets in words:
        assert program == "make"
        done = subprocess.run(
            ["make", "--dry-run", *targets], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_mentioned_files_exist() -> None:
    text = README.read_text()
    for name in ("gateway/config.py", "control/config.py", "health/config.py", "haproxy/haproxy.cfg"):
        assert f"`{name}`" in text or name in text
        assert (ROOT / name).is_file()


@pytest.mark.timeout(240)
def test_commands_for_make_up(tmp_path: Path) -> None:
    missing = [name for name in ("unshare", "ip", "make", "curl", "openssl") if shutil.which(name) is None]
    if not (ROOT / ".venv" / ".dev").exists():
        missing.append("a .venv that `make test` made")
    if missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"missing: {', '.join(missing)}")
        pytest.skip(f"missing: {', '.join(missing)}")
    unshare = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    done = subprocess.run(
        [*unshare, sys.executable, "-m", "tests.deploy.readme_world", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("the page of example.com") == 3
    assert done.stdout.count('"country": "zz"') == 1
    assert done.stdout.count("\nzz\n") == 2
