"""Programs that the tests run besides Python: says which are missing, and as root on Debian installs them.

`python -m deploy.system` never fails: a test that needs a missing program says so itself.
"""

import sys
import sysconfig
from pathlib import Path

from deploy.lab import packages
from deploy.lab.shell import LabError

# Program -> Debian package.
WANTED = {
    "redis-server": "redis-server",
    "openvpn": "openvpn",
    "wg": "wireguard-tools",
    "wireguard-go": "wireguard-go",
    "git": "git",
    # Upstreams of the gateway (tests/gateway).
    "microsocks": "microsocks",
    "danted": "dante-server",
    "squid": "squid",
    "tinyproxy": "tinyproxy",
    # Clients of the proxy (tests/clients).
    "chromium": "chromium",
    "java": "default-jdk-headless",
    "javac": "default-jdk-headless",
    "ncat": "ncat",
    "node": "nodejs",
    "npm": "npm",
    "proxychains4": "proxychains4",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "wget": "wget",
    # Who watches it all (tests/deploy/prometheus, tests/lab).
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
    # Clocks that jump (tests/deploy).
    "faketime": "faketime",
    # Shells that are completed for (tests/deploy/commands).
    "bash": "bash",
    "zsh": "zsh",
    "fish": "fish",
    **packages.ENGINE,
    **packages.HOST,
    "gcc": "gcc",  # deploy.compile
}


def wanted() -> dict[str, str]:
    """Debian's Python brings its headers, for deploy.compile, in a package of their own; others come with theirs."""
    if Path(sysconfig.get_path("include"), "Python.h").exists():
        return WANTED
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return {**WANTED, f"{name}-config": f"{name}-dev"}


def main() -> None:
    try:
        packages.ensure(wanted(), "a complete test run")
    except LabError as error:
        print(f"vpnexit: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
