"""The kernel's parts."""

import errno
from pathlib import Path

import pytest

from deploy.doctor import kernel
from deploy.doctor.kernel import Conntrack, Kernel, Nftables, Tun
from deploy.doctor.model import Result


def test_this_kernel() -> None:
    seen = kernel.look_kernel()
    (finding,) = kernel.judge_kernel(seen)
    assert (finding.result is Result.OK) == seen.cookies
    assert seen.release in finding.reason


@pytest.mark.parametrize(
    ("seen", "result"),
    [
        (Kernel("6.1.0-18-amd64", True), Result.OK),
        (Kernel("5.14.0", True), Result.OK),
        (Kernel("5.10.0-28-amd64", False), Result.FAILED),
        (Kernel("5.15.0", False), Result.FAILED),
        (Kernel("odd", True), Result.OK),
    ],
)
def test_kernels(seen: Kernel, result: Result) -> None:
    assert [finding.result for finding in kernel.judge_kernel(seen)] == [result]


def test_tun_that_is_not_there_or_something_else(tmp_path: Path) -> None:
    (finding,) = kernel.judge_tun(kernel.look_tun(tmp_path / "tun"))
    assert (finding.result, finding.reason) == (Result.FAILED, f"{tmp_path / 'tun'} is not there")
    assert "mknod" in finding.mend
    (finding,) = kernel.judge_tun(kernel.look_tun(Path("/dev/null")))
    assert (finding.result, finding.reason) == (Result.FAILED, "/dev/null is another device")
    (tmp_path / "file").write_text("")
    (finding,) = kernel.judge_tun(kernel.look_tun(tmp_path / "file"))
    assert finding.result is Result.FAILED


@pytest.mark.parametrize(
    ("error", "result", "mend"),
    [
        (0, Result.OK, ""),
        (errno.EACCES, Result.OK, ""),
        (errno.ENODEV, Result.FAILED, "modprobe tun"),
        (errno.EIO, Result.FAILED, "modprobe tun"),
    ],
)
def test_tun_that_cannot_be_opened(error: int, result: Result, mend: str) -> None:
    (finding,) = kernel.judge_tun(Tun(kernel.TUN, kernel.TUN_NUMBER, error))
    assert finding.result is result
    assert mend in finding.mend


@pytest.mark.parametrize(
    ("seen", "result"),
    [
        (Nftables(True, "", False), Result.OK),
        (Nftables(False, "Operation not permitted (you must be root)", True), Result.OK),
        (Nftables(False, "Operation not permitted (you must be root)", False), Result.WARNING),
        (Nftables(False, "", False), Result.WARNING),
        (
            Nftables(False, "netlink: Error: Unable to initialize Netlink socket: Protocol not supported", False),
            Result.FAILED,
        ),
    ],
)
def test_nftables(seen: Nftables, result: Result) -> None:
    (finding,) = kernel.judge_nftables(seen)
    assert finding.result is result
    assert bool(finding.mend) == (result is not Result.OK)


def test_nft_that_is_a_program_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nft = tmp_path / "nft"
    nft.write_text("#!/bin/sh\necho 'cache initialization failed: Protocol not supported' >&2; exit 1\n")
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    seen = kernel.look_nftables()
    assert (seen.listed, seen.said) == (False, "cache initialization failed: Protocol not supported")


def test_conntrack(tmp_path: Path) -> None:
    assert [f.reason for f in kernel.judge_conntrack(kernel.look_conntrack(tmp_path))] == [
        "connections are not tracked"
    ]
    (tmp_path / "nf_conntrack_count").write_text("900\n")
    (tmp_path / "nf_conntrack_max").write_text("1000\n")
    (finding,) = kernel.judge_conntrack(kernel.look_conntrack(tmp_path))
    assert (finding.result, finding.reason) == (Result.WARNING, "900 of 1,000 tracked connections in use")
    assert "nf_conntrack_max=262144" in finding.mend
    assert next(iter(kernel.judge_conntrack(Conntrack(10, 1000)))).result is Result.OK
