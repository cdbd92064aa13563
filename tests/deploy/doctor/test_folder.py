"""The folder of VPN files."""

from pathlib import Path

from deploy.doctor import folder
from deploy.doctor.model import Finding, Result

WIREGUARD = """[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.64.0.2/32
DNS = 10.64.0.1

[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
AllowedIPs = 0.0.0.0/0
Endpoint = 198.18.0.10:51820
"""


def examined(directory: Path) -> Finding:
    (finding,) = folder.judge(folder.look(directory))
    return finding


def write(path: Path, text: str = WIREGUARD, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def test_good_files(tmp_path: Path) -> None:
    write(tmp_path / "jp-tokyo-1.conf")
    write(tmp_path / "us-1.conf")
    assert (examined(tmp_path).result, examined(tmp_path).reason) == (Result.OK, "2 for jp, us")


def test_some_and_all_refused(tmp_path: Path) -> None:
    write(tmp_path / "jp-tokyo-1.conf")
    write(tmp_path / "us-1.conf", WIREGUARD.replace("DNS", "PostUp = touch /tmp/x\nDNS"))
    finding = examined(tmp_path)
    assert finding.result is Result.WARNING
    assert finding.reason.startswith("1 can be used, 1 not: us-1.conf")
    (tmp_path / "jp-tokyo-1.conf").chmod(0o644)
    finding = examined(tmp_path)
    assert finding.result is Result.FAILED
    assert finding.reason.startswith("none of 2 can be used: ")
    assert "yAnz5TF" not in str(finding)


def test_nothing_there(tmp_path: Path) -> None:
    finding = examined(tmp_path)
    assert (finding.result, finding.reason) == (Result.FAILED, f"{tmp_path} has none")
    assert "jp-tokyo-1.ovpn" in finding.mend
    finding = examined(tmp_path / "none")
    assert (finding.result, finding.reason) == (
        Result.FAILED,
        f"custom.directory {tmp_path / 'none'}: No such file or directory",
    )
