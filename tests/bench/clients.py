"""The load generator, seen from here: how it is told where to go, and what it answers."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

USER, PASSWORD = "bench", "correct-horse-battery"


@dataclass(frozen=True, slots=True)
class Load:
    """The program under `load/`, made ready."""

    program: Path

    def run(self, mode: str, *words: str) -> dict[str, Any]:
        """Run it to its end, and return what it reports."""
        done = subprocess.run([self.program, mode, *words], capture_output=True, text=True, check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def together(self, mode: str, runs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """Several at once, to their ends; what each reports."""
        started = [subprocess.Popen([self.program, mode, *words], stdout=subprocess.PIPE, text=True) for words in runs]
        outputs = [process.communicate()[0] for process in started]
        return [json.loads(output) for output in outputs]


def route(speak: str, address: str, target: str, user: str = "") -> list[str]:
    """Its words for a way to `target`: `speak` is direct, http or socks; without a user there is no log-in."""
    login = ["-user", user, "-password", PASSWORD] if user else []
    return ["-speak", speak, "-address", address, "-target", target, *login]
