"""A worker that only says what it is told to say: stands for the real one in tests of those who run workers.

`install` puts it where `python -m gateway` finds it. What a supervisor hands on as `worker` says what it does:
`exit` (code: end at once), `ready` (False: never), `deaf` (ignore SIGTERM), `count` (what it says it has counted),
`guess` (what it says of a guess first). What it is told of guesses is in its state.
"""

from pathlib import Path

import pytest

PROGRAM = """
import json, os, signal, socket, sys
channel = socket.socket(fileno=int(sys.argv[1]))
lines = channel.makefile("rb")
told = json.loads(lines.readline())
worker = told["worker"]
heard = []
if "exit" in worker:
    sys.exit(worker["exit"])
def say(number):
    state = {
        "listening": True, "ready": worker.get("ready", True), "nodes": ["jp000001"], "gauges": {"number": number},
        "carried": {"jp000001": 2}, "panic": {"jp": True},
        "counters": {"totals": [[[], [worker.get("count", number), 0]]]}, "alone": told["alone"],
        "failures": told["failures"], "heard": heard,
        "inherited": [socket.socket(fileno=fd).getsockname()[1] for fd in told["sockets"]] if not number else [],
        "ignored": [n for n in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_IGN],
    }
    channel.sendall(json.dumps(state).encode() + b"\\n")
def end(*_):
    say(1000)
    channel.sendall(b'{"counters": {"totals": [[[], [9999')  # cut off
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if worker.get("deaf") else end)
if "guess" in worker:
    channel.sendall(json.dumps({"guess": worker["guess"]}).encode() + b"\\n")
say(0)
number = 0
while line := lines.readline():
    if line != b"\\n":
        heard.append(json.loads(line)["guess"])
        continue
    number += 1
    say(number)
"""


def install(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children of this test that run the module `gateway` get the stand-in."""
    (directory / "gateway").mkdir()
    (directory / "gateway" / "__init__.py").touch()
    (directory / "gateway" / "__main__.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", str(directory))
    monkeypatch.chdir(directory)
