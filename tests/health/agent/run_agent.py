"""An agent in this (fresh) network namespace, its standard input handed through: DIRECTORY is the one argument."""

import subprocess
import sys
from pathlib import Path

from health.agent import agent
from tests.health.agent.dns_stand_in import DnsStandIn


def main() -> None:
    directory = Path(sys.argv[1])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    DnsStandIn(("127.0.0.1", 53), directory / "mute")
    sys.argv[1] = str(directory / "agent.sock")
    agent.main()


if __name__ == "__main__":
    main()
