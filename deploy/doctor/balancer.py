"""HAProxy, where it is installed: is its configuration valid, does it run, does it see a gateway?"""

import csv
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.model import Finding, failed, ok, skipped, warning

OLDEST = (2, 6)
CONFIGURATION = Path(__file__).resolve().parents[2] / "haproxy" / "haproxy.cfg"
_MOST = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Seen:
    """`complaint` is that of `haproxy -c`; `up` tells for every gateway whether it is, None where nothing runs."""

    program: str = ""
    version: str = ""
    configuration: Path = CONFIGURATION
    complaint: str = ""
    socket: Path = Path()
    up: Mapping[str, bool] | None = None
    socket_fault: str = ""


def look(configuration: Path = CONFIGURATION, environ: Mapping[str, str] = os.environ) -> Seen:
    program = shutil.which("haproxy", path=environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        return Seen()
    runtime = environ.get("XDG_RUNTIME_DIR", "/run")
    path = Path(environ.get("VPNEXIT_HAPROXY_SOCKET", f"{runtime}/vpnexit-haproxy.sock"))
    version = re.search(r"version (\S+)", _run([program, "-v"], environ)[1])
    code, said = _run([program, "-c", "-f", str(configuration)], environ)
    up, fault = _gateways(path)
    return Seen(
        program, version[1] if version else "", configuration, _complaint(said) if code else "", path, up, fault
    )


def judge(seen: Seen) -> Iterator[Finding]:
    if not seen.program:
        yield skipped("haproxy", "not installed here: clients reach the gateway itself, without ports for countries")
        return
    found = re.match(r"(\d+)\.(\d+)", seen.version)
    oldest = ".".join(map(str, OLDEST))
    if found is not None and (int(found[1]), int(found[2])) < OLDEST:
        yield failed(
            "haproxy",
            f"version {seen.version} is older than {oldest}",
            "Gateways do not learn which port a client dialled.",
            f"install HAProxy {oldest} or newer, for example with `apt install haproxy`",
        )
    elif seen.complaint:
        yield failed(
            "haproxy",
            f"{seen.configuration} is refused: {seen.complaint}",
            "HAProxy does not start, or goes on with what it read before.",
            f"put it right (the VPNEXIT_HAPROXY_… variables, too), then `haproxy -c -f {seen.configuration}`",
        )
    else:
        yield ok("haproxy", f"version {seen.version}, its configuration is valid")
    yield _running(seen)


def _running(seen: Seen) -> Finding:
    name = "haproxy gateways"
    if seen.socket_fault:
        return warning(
            name,
            f"{seen.socket} cannot be asked: {seen.socket_fault}",
            "Whether HAProxy sees its gateways is not known.",
            "run this as HAProxy's own user or as root",
        )
    if seen.up is None:
        return skipped(name, f"HAProxy does not run with {seen.socket} (VPNEXIT_HAPROXY_SOCKET names another)")
    down = sorted(gateway for gateway, up in seen.up.items() if not up)
    if seen.up and not down:
        return ok(name, f"{len(seen.up)} up")
    if len(down) < len(seen.up):
        return warning(
            name,
            f"down: {', '.join(down)}",
            "The others carry all clients.",
            "start them, or see why GET /ready is not answered with 200 (gateway.metrics_listen)",
        )
    return failed(
        name,
        "HAProxy sees no gateway",
        "Every client is turned away.",
        "start `vpnexit gateway`; VPNEXIT_HAPROXY_GATEWAY1 and …_READY name its proxy and its metrics port",
    )


def gateways(statistics: str) -> dict[str, bool]:
    """Of the answer to `show stat`: which servers of the backend `gateways` are up."""
    rows = csv.DictReader(statistics.removeprefix("# ").splitlines())
    return {
        row["svname"]: row["status"].startswith(("UP", "no check"))
        for row in rows
        if row.get("pxname") == "gateways" and row.get("svname") not in ("BACKEND", "FRONTEND")
    }


def _gateways(path: Path) -> tuple[dict[str, bool] | None, str]:
    if not path.exists():
        return None, ""
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(2)
            sock.connect(str(path))
            sock.sendall(b"show stat\n")
            answer = b""
            while (part := sock.recv(65536)) and len(answer) < _MOST:
                answer += part
    except ConnectionRefusedError:
        return None, ""
    except OSError as error:
        return None, error.strerror or str(error)
    return gateways(answer.decode(errors="replace")), ""


def _run(command: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=10, check=False, env=dict(environ)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout + done.stderr


def _complaint(said: str) -> str:
    """The first alert, without its number and its process."""
    lines = [line.strip() for line in said.splitlines() if "[ALERT]" in line] or said.strip().splitlines()
    return re.sub(r"^\[ALERT\]\s*\(\d+\)\s*:\s*", "", lines[0])[:300] if lines else "no message"
