"""An exit's files on the host: who may read what, and that nothing is left half-done."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from control.nodefiles import MAX_LOG, NodeFiles, NodeFilesError
from control.providers import Secret
from health.agent.protocol import AGENT_UID, VPN_UID

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving files away takes root")
NODE = "jp3f9a1c"
SECRETS = (Secret("auth.txt", VPN_UID, b"user\npassword\n"), Secret("wg.key", 0, b"key\n"))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@needs_root
def test_owners_and_modes(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    files.write(NODE, {"schema": 1, "node": NODE}, SECRETS)
    agent, config = files.agent_dir(NODE), files.config_dir(NODE)
    assert (agent, config) == (tmp_path / "nodes" / NODE / "agent", tmp_path / "nodes" / NODE / "config")
    assert (agent.stat().st_uid, agent.stat().st_gid, mode(agent)) == (AGENT_UID, os.getegid(), 0o2750)
    assert mode(config) == 0o755
    assert (mode(config / "node.json"), mode(config / "auth.txt"), mode(config / "wg.key")) == (0o444, 0o400, 0o400)
    assert (config / "auth.txt").stat().st_uid == VPN_UID
    assert (config / "wg.key").stat().st_uid == 0
    assert json.loads((config / "node.json").read_text()) == {"schema": 1, "node": NODE}
    assert files.read(NODE) == {"schema": 1, "node": NODE}
    assert os.listdir(tmp_path / "nodes") == [NODE]
    assert files.agent_socket(NODE) == str(agent / "agent.sock")


@needs_root
def test_directories_that_may_be_mounted_are_not_replaced(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    files.write(NODE, {"n": 1}, ())
    inode = files.agent_dir(NODE).stat().st_ino
    files.write(NODE, {"n": 2}, ())
    assert files.agent_dir(NODE).stat().st_ino == inode
    assert os.listdir(tmp_path / "nodes") == [NODE]


@needs_root
def test_a_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(NodeFilesError, match="must run as root"):
        NodeFiles(tmp_path).write(NODE, {}, SECRETS)
    assert os.listdir(tmp_path / "nodes") == []


def test_a_state_directory_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeFilesError, match="Not a directory"):
        NodeFiles(tmp_path / "file").write(NODE, {}, ())


def test_secrets_do_not_show() -> None:
    assert "password" not in repr(SECRETS)


@pytest.mark.parametrize("node_id", ["", "..", "../x", "jp3f9a1c/..", "JP3F9A1C"])
def test_only_node_ids_become_paths(tmp_path: Path, node_id: str) -> None:
    files = NodeFiles(tmp_path)
    for use in (files.remove, files.log, files.agent_socket):
        with pytest.raises(ValueError, match="not a node id"):
            use(node_id)
    assert files.read(node_id) is None


@needs_root
def test_sweep_removes_what_nobody_knows(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    assert files.sweep(set()) == []
    for node_id in (NODE, "us000001"):
        files.write(node_id, {}, ())
        files.save_log(node_id, "x")
    (tmp_path / "nodes" / ".making-jp000009-abcd").mkdir()
    assert files.sweep({NODE}) == ["us000001"]
    assert os.listdir(tmp_path / "nodes") == [NODE]
    assert os.listdir(tmp_path / "logs") == [f"{NODE}.log"]
    files.remove(NODE)
    files.remove(NODE)
    assert os.listdir(tmp_path / "nodes") == []
    assert files.read(NODE) is None


def test_logs_are_bounded_private_and_forgotten(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    assert files.log(NODE) == ""
    files.save_log(NODE, "x" * (MAX_LOG + 10) + "end")
    files.save_log(NODE, "y" * MAX_LOG + "end")
    assert len(files.log(NODE)) == MAX_LOG
    assert files.log(NODE).endswith("yend")
    assert mode(tmp_path / "logs" / f"{NODE}.log") == 0o600
    files.forget_log(NODE)
    files.forget_log(NODE)
    assert files.log(NODE) == ""


def test_a_log_that_could_not_be_kept_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        NodeFiles(tmp_path).save_log("jp000001", "the last line")
    assert list((tmp_path / "logs").iterdir()) == []
