import json
import subprocess
import sys

import pytest

from deploy.lab import hostnet


def _in_namespace(code: str) -> dict[str, object]:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.usefixtures("namespaces")
def test_all_of_it_comes_and_goes() -> None:
    told = _in_namespace("""
import json, subprocess
from deploy.lab import hostnet, world
from deploy.lab.shell import run
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
subprocess.run(["iptables", "-P", "FORWARD", "DROP"], check=True)
def state():
    return [run(["nft", "list", "tables"]), run(["ip", "route"]), run(["iptables", "-S"]), run(["ip", "-br", "link"])]
before = state()
for _ in range(2):
    hostnet.hold_range(); hostnet.guard(); hostnet.allow_bridging()
during = state()
subprocess.run(["ip", "link", "add", world.WAN, "type", "bridge"], check=True)
for _ in range(2):
    hostnet.remove_bridges(); hostnet.disallow_bridging(); hostnet.unguard(); hostnet.release_range()
print(json.dumps({"same": before == state(), "during": during}))
""")
    assert told["same"] is True
    tables, routes, rules, _ = told["during"]  # type: ignore[misc]
    assert f"table inet {hostnet.GUARD}" in tables
    assert routes.count("blackhole 198.18.0.0/15") == 1
    assert rules.count("--comment vxlab -j ACCEPT") == 2


@pytest.mark.usefixtures("namespaces")
def test_no_filter_table_is_made_where_there_is_none() -> None:
    told = _in_namespace("""
import json
from deploy.lab import hostnet
from deploy.lab.shell import run
hostnet.allow_bridging(); hostnet.disallow_bridging()
print(json.dumps({"tables": run(["nft", "list", "tables"])}))
""")
    assert told["tables"] == ""


@pytest.mark.usefixtures("namespaces")
def test_forwarding_is_as_it_was(tmp_path: object) -> None:
    told = _in_namespace(f"""
import json
from pathlib import Path
from deploy.lab import hostnet
note = Path({str(tmp_path)!r}) / "switches.json"
switch = Path("/proc/sys/net/ipv4/ip_forward")
switch.write_text("0")
hostnet.remember_switches(note)
switch.write_text("1")
hostnet.remember_switches(note)
hostnet.restore_switches(note)
hostnet.restore_switches(note)
print(json.dumps({{"now": switch.read_text().strip(), "note": note.exists()}}))
""")
    assert told == {"now": "0", "note": False}
