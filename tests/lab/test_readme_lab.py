"""The README's commands for the lab, as written."""

import subprocess
from pathlib import Path

import pytest

from tests.deploy.readme import blocks, script
from tests.lab.harness import Lab

ROOT = Path(__file__).parents[2]


def test_readme_commands_for_the_lab(lab: Lab) -> None:
    if lab.status["proxy"]["port"] != 3128:
        pytest.skip("the lab runs on other ports than the README names")
    output = ""
    for block in blocks("lab"):
        done = subprocess.run(
            ["bash", "-c", script(block)], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}{done.stderr}"
        output += done.stdout
    for country in ("jp", "us", "gb"):
        assert any(address in output for address in lab.status["countries"][country]["egress"]), (country, output)
