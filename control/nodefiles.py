"""The directories and files of one exit on the host: made before its container, removed after it.

    <state_dir>/nodes/<node id>/agent/    the agent's socket appears here; bind-mounted for writing
    <state_dir>/nodes/<node id>/config/   node.json and secrets; bind-mounted read-only
    <state_dir>/logs/<node id>.log        the last output of an exit whose container was removed

A secret belongs to the one user in the container that reads it and has mode 0400: the container's root has no
CAP_DAC_OVERRIDE. Giving files away takes root here as well. Everything blocks; call it off the event loop.
"""

import json
import os
import shutil
from pathlib import Path
from secrets import token_hex
from typing import Any

from control.providers import Secret
from control.providers.files import write_private
from health.agent.protocol import AGENT_UID, SOCKET_NAME
from health.model import NODE_ID

MAX_LOG = 256 * 1024


class NodeFilesError(Exception):
    """The state directory cannot be used, in plain words."""


class NodeFiles:
    """Files below one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self._nodes = state_dir.absolute() / "nodes"
        self._logs = state_dir.absolute() / "logs"

    def agent_dir(self, node_id: str) -> Path:
        return self._directory(node_id) / "agent"

    def config_dir(self, node_id: str) -> Path:
        return self._directory(node_id) / "config"

    def agent_socket(self, node_id: str) -> str:
        return str(self.agent_dir(node_id) / SOCKET_NAME)

    def write(self, node_id: str, config: dict[str, Any], secrets: tuple[Secret, ...]) -> None:
        """Make a node's directories, complete or not at all. Those that are there already stay: they may be mounted.

        Raises NodeFilesError.
        """
        final = self._directory(node_id)
        making = final.with_name(f".making-{node_id}-{token_hex(4)}")
        try:
            self._nodes.mkdir(mode=0o711, parents=True, exist_ok=True)
            making.mkdir(mode=0o711)
            _fill(making, config, secrets)
            if not final.exists():
                making.rename(final)
        except PermissionError as error:
            raise NodeFilesError(f"control must run as root to hand files to exits: {error}") from None
        except OSError as error:
            raise NodeFilesError(f"files of node {node_id}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def read(self, node_id: str) -> dict[str, Any] | None:
        """The node.json written before, or None where there is none that can be read."""
        try:
            found = json.loads((self.config_dir(node_id) / "node.json").read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def remove(self, node_id: str) -> None:
        """Remove a node's directories. Idempotent."""
        shutil.rmtree(self._directory(node_id), ignore_errors=True)

    def save_log(self, node_id: str, text: str) -> None:
        """Keep the last output of a node (at most 256 KiB), whole or not at all. Raises OSError."""
        write_private(self._log(node_id), text[-MAX_LOG:].encode(errors="replace"))

    def log(self, node_id: str) -> str:
        """What `save_log` kept, or an empty string."""
        try:
            return self._log(node_id).read_text()
        except OSError:
            return ""

    def forget_log(self, node_id: str) -> None:
        self._log(node_id).unlink(missing_ok=True)

    def sweep(self, keep: set[str]) -> list[str]:
        """Remove directories and logs of nodes that are not in `keep`; returns the node ids of those directories."""
        gone = [path.name for path in _children(self._nodes) if path.name not in keep]
        for name in gone:
            shutil.rmtree(self._nodes / name, ignore_errors=True)
        for path in _children(self._logs):
            if path.stem not in keep:
                path.unlink(missing_ok=True)
        return sorted(name for name in gone if NODE_ID.fullmatch(name))

    def _directory(self, node_id: str) -> Path:
        return self._nodes / _checked(node_id)

    def _log(self, node_id: str) -> Path:
        return self._logs / f"{_checked(node_id)}.log"


def _fill(directory: Path, config: dict[str, Any], secrets: tuple[Secret, ...]) -> None:
    agent, files = directory / "agent", directory / "config"
    agent.mkdir()
    os.chown(agent, AGENT_UID, os.getegid())
    # Set-group-id: the agent's socket gets control's group, so that a gateway of that group may use it.
    agent.chmod(0o2750)
    files.mkdir()
    files.chmod(0o755)
    _write(files / "node.json", json.dumps(config, indent=1).encode() + b"\n", 0, 0o444)
    for secret in secrets:
        _write(files / secret.name, secret.content, secret.uid, 0o400)


def _write(path: Path, content: bytes, uid: int, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(content)
        os.fchown(fd, uid, -1)
        os.fchmod(fd, mode)


def _children(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []


def _checked(node_id: str) -> str:
    if not NODE_ID.fullmatch(node_id):
        raise ValueError(f"{node_id!r} is not a node id")
    return node_id
