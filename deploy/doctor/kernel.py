"""The kernel: new enough, with TUN devices and nftables, and with room in its connection table."""

import errno
import os
import platform
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.doctor.model import Finding, failed, ok, warning
from health.handover import SO_NETNS_COOKIE

OLDEST = (5, 14)  # SO_NETNS_COOKIE, by which a gateway knows whose namespace a socket is of
TUN = Path("/dev/net/tun")
TUN_NUMBER = (10, 200)  # Linux, Documentation/admin-guide/devices.txt
CONNTRACK = Path("/proc/sys/net/netfilter")
CROWDED = 0.8


@dataclass(frozen=True, slots=True)
class Kernel:
    release: str
    cookies: bool


def look_kernel() -> Kernel:
    with socket.socket() as sock:
        try:
            cookies = len(sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)) == 8
        except OSError:
            cookies = False
    return Kernel(platform.release(), cookies)


def judge_kernel(kernel: Kernel) -> Iterator[Finding]:
    found = re.match(r"(\d+)\.(\d+)", kernel.release)
    new = found is None or (int(found[1]), int(found[2])) >= OLDEST
    if new and kernel.cookies:
        yield ok("kernel", f"Linux {kernel.release}")
        return
    yield failed(
        "kernel",
        f"Linux {kernel.release} has no SO_NETNS_COOKIE",
        "Gateways cannot tell an exit's sockets from their own, and refuse them all.",
        "boot Linux 5.14 or newer (Debian 12, Ubuntu 22.04 with linux-generic-hwe-22.04)",
    )


@dataclass(frozen=True, slots=True)
class Tun:
    """`number` is the device's, None where it is not there or no device; `error` is open(2)'s."""

    path: Path
    number: tuple[int, int] | None
    error: int = 0


def look_tun(path: Path = TUN) -> Tun:
    try:
        found = path.stat()
    except FileNotFoundError:
        return Tun(path, None)
    number = (os.major(found.st_rdev), os.minor(found.st_rdev)) if stat.S_ISCHR(found.st_mode) else None
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Tun(path, number, error.errno or errno.EIO)
    return Tun(path, number)


def judge_tun(tun: Tun) -> Iterator[Finding]:
    meaning = "No tunnel can be made: exits fail at their start."
    if tun.number != TUN_NUMBER:
        what = "is not there" if tun.number is None else "is another device"
        make = f"modprobe tun; mkdir -p {tun.path.parent}; mknod {tun.path} c 10 200; chmod 666 {tun.path}"
        yield failed("tun", f"{tun.path} {what}", meaning, make)
    elif tun.error in (errno.ENODEV, errno.ENXIO, errno.ENOENT):
        yield failed(
            "tun", f"{tun.path} has no driver", meaning, "modprobe tun; echo tun > /etc/modules-load.d/tun.conf"
        )
    elif tun.error not in (0, errno.EACCES, errno.EPERM):
        yield failed("tun", f"{tun.path} cannot be opened: {os.strerror(tun.error)}", meaning, "modprobe tun")
    else:
        # Docker opens it for exits, so our own right to it does not matter.
        yield ok("tun", f"{tun.path} is there")


@dataclass(frozen=True, slots=True)
class Nftables:
    """`listed`: `nft list tables` worked; `said`: what it complained of; `module`: the kernel has nf_tables."""

    listed: bool
    said: str
    module: bool


def look_nftables() -> Nftables:
    program = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        return Nftables(False, "", _has_module("nf_tables"))
    try:
        done = subprocess.run([program, "list", "tables"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Nftables(False, str(error), _has_module("nf_tables"))
    said = done.stderr.strip().splitlines()
    return Nftables(done.returncode == 0, said[0][:200] if said else "", _has_module("nf_tables"))


def judge_nftables(seen: Nftables) -> Iterator[Finding]:
    if seen.listed:
        yield ok("nftables", "the kernel answers")
    elif seen.module:
        yield ok("nftables", "the kernel has nf_tables")
    elif not seen.said or "ermitted" in seen.said or "ermission" in seen.said:
        yield warning(
            "nftables",
            "could not be seen",
            "Without it exits have no kill switch, and do not start.",
            "run this as root, with nft installed (`apt install nftables`)",
        )
    else:
        yield failed(
            "nftables",
            f"the kernel refuses: {seen.said}",
            "Exits have no kill switch without it, and do not start.",
            "modprobe nf_tables, or boot a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
        )


@dataclass(frozen=True, slots=True)
class Conntrack:
    """Connections tracked now, and at most; None where nothing is tracked."""

    count: int | None
    most: int | None


def look_conntrack(directory: Path = CONNTRACK) -> Conntrack:
    try:
        return Conntrack(
            int((directory / "nf_conntrack_count").read_text()), int((directory / "nf_conntrack_max").read_text())
        )
    except FileNotFoundError:
        return Conntrack(None, None)


def judge_conntrack(seen: Conntrack) -> Iterator[Finding]:
    if seen.count is None or not seen.most:
        yield ok("conntrack", "connections are not tracked")
        return
    text = f"{seen.count:,} of {seen.most:,} tracked connections in use"
    if seen.count < CROWDED * seen.most:
        yield ok("conntrack", text)
        return
    most = max(262_144, 4 * seen.most)
    yield warning(
        "conntrack",
        text,
        "When the table is full the kernel drops new connections, of exits and clients alike.",
        f"sysctl -w net.netfilter.nf_conntrack_max={most}; the same line into /etc/sysctl.d/90-vpnexit.conf",
    )


def _has_module(name: str) -> bool:
    """Loaded, built in, or there to be loaded when needed."""
    if Path("/sys/module", name).is_dir():
        return True
    directory = Path("/lib/modules", platform.release())
    for listing in ("modules.builtin", "modules.dep"):
        try:
            with (directory / listing).open() as lines:
                if any(f"/{name}.ko" in line.partition(":")[0] for line in lines):
                    return True
        except OSError:
            continue
    return False
