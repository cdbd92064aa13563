"""The commands of README.md, with what their mark says about how to test them."""

import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
_BLOCK = re.compile(
    r"(?:^<!-- test: (?P<how>\w+) -->\n)?^```(?P<kind>sh|python)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
HOW = {
    "start": "started, and kept running for the `up` blocks",
    "up": "run while `make up` runs, in a network of its own",
    "lab": "run while the lab runs",
    "dry": "make knows the target; running it here would end what runs this",
}


@dataclass(frozen=True)
class Block:
    how: str
    kind: str
    text: str


def blocks(how: str = "") -> list[Block]:
    """All blocks of commands or Python, or those marked `how`, in their order."""
    found = [Block(m["how"] or "", m["kind"], m["text"]) for m in _BLOCK.finditer(README.read_text())]
    return [block for block in found if not how or block.how == how]


def script(block: Block, python: str = ".venv/bin/python") -> str:
    """`block` for bash; the first failing command ends it."""
    if block.kind == "python":
        return f"{python} - <<'END_OF_PYTHON'\n{block.text}END_OF_PYTHON\n"
    return f"set -e\n{block.text}"
