"""Install what the lab needs from Debian, without starting or enabling the services that come with it."""

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from deploy.lab.shell import LabError, has, run, succeeds

POLICY = Path("/usr/sbin/policy-rc.d")
INSTALL_TIMEOUT_S = 900.0
# Program -> package. The first group makes a Docker Engine of our own, the second runs the product on the host.
ENGINE = {"dockerd": "docker.io", "docker": "docker-cli", "iptables": "iptables", "debootstrap": "debootstrap"}
HOST = {"haproxy": "haproxy", "nft": "nftables", "ip": "iproute2", "curl": "curl"}
UNITS = {
    "docker.io": ("docker.service", "docker.socket", "containerd.service"),
    "haproxy": ("haproxy.service",),
    "openssh-server": ("ssh.service",),
    "openvpn": ("openvpn.service",),
    "prometheus": ("prometheus.service",),
    "prometheus-alertmanager": ("prometheus-alertmanager.service",),
    "redis-server": ("redis-server.service",),
    "squid": ("squid.service",),
    "tinyproxy": ("tinyproxy.service",),
}


def is_root() -> bool:
    return os.geteuid() == 0


def is_debian() -> bool:
    """Debian itself or a system made from it: what counts is apt and Debian's package names."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return False
    kinds = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    return "debian" in kinds and has("apt-get")


def ensure(wanted: Mapping[str, str], purpose: str) -> None:
    """Install the packages of those programs that are missing.

    Raises:
        LabError: something is missing and this is not root on Debian, or apt-get failed.
    """
    missing = sorted({package for program, package in wanted.items() if not has(program)})
    if not missing:
        return
    if not (is_root() and is_debian()):
        raise LabError(f"{purpose} needs {', '.join(missing)}: install them (root on Debian does so by itself)")
    with _services_held():
        _install(missing)
    for unit in (unit for package in missing for unit in UNITS.get(package, ())):
        succeeds(["systemctl", "disable", unit], timeout=30)


def _install(packages: list[str]) -> None:
    # In bookworm docker.io carries the client too; later releases have it in a package of its own.
    optional = {"docker-cli"}
    command = ["apt-get", "install", "-y", "--no-install-recommends"]
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    if not all(_known(package) for package in packages if package not in optional):
        run(["apt-get", "update"], timeout=INSTALL_TIMEOUT_S, env=quiet)
    chosen = [package for package in packages if package not in optional or _known(package)]
    try:
        run([*command, *chosen], timeout=INSTALL_TIMEOUT_S, env=quiet)
    except LabError:
        # Lists that are out of date name versions that the mirror no longer has.
        run(["apt-get", "update"], timeout=INSTALL_TIMEOUT_S, env=quiet)
        run([*command, *chosen], timeout=INSTALL_TIMEOUT_S, env=quiet)


def _known(package: str) -> bool:
    try:
        return "Candidate: (none)" not in (shown := run(["apt-cache", "policy", package])) and "Candidate:" in shown
    except LabError:
        return False


@contextlib.contextmanager
def _services_held() -> Iterator[None]:
    """Debian asks policy-rc.d before it starts a service (invoke-rc.d(8)); 101 forbids it."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)
