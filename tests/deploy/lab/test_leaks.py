import json
import subprocess
import sys

import pytest

from deploy.lab import leaks, world
from deploy.lab.leaks import Counts

# A bridge of the lab's name with one "exit" on it, which sends; prints the counters after each step.
SCRIPT = """
import json, socket, subprocess, sys
from deploy.lab import leaks, world

def sh(*words):
    subprocess.run(words, check=True)

def sent(kind, family, address, port, mac=None):
    code = f'''
import socket
s = socket.socket(socket.{family}, socket.{kind})
s.setblocking(False)
try:
    s.connect(("{address}", {port}))
    s.send(b"x")
except (BlockingIOError, OSError):
    pass
'''
    sh(*inside, sys.executable, "-c", code)
    return leaks.read()

exit_ = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE)
exit_.stdout.readline()
try:
    inside = ("nsenter", f"--net=/proc/{exit_.pid}/ns/net")
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "link", "add", world.UPLINK, "type", "bridge")
    sh("ip", "address", "add", "198.18.10.1/24", "dev", world.UPLINK)
    sh("ip", "link", "set", world.UPLINK, "up")
    sh("ip", "link", "add", "port", "type", "veth", "peer", "name", "eth0", "netns", str(exit_.pid))
    sh("ip", "link", "set", "port", "master", world.UPLINK, "up")
    leaks.set_up()
    found = [leaks.read()]
    sh(*inside, "ip", "link", "set", "eth0", "up")
    sh(*inside, "ip", "address", "add", "198.18.10.130/24", "dev", "eth0")
    sh(*inside, "ip", "address", "add", "2001:2:0:10::130/64", "dev", "eth0", "nodad")
    sh(*inside, "ip", "route", "add", "default", "via", "198.18.10.1")
    for address in ("198.18.10.11", "198.18.10.31"):
        sh(*inside, "ip", "neigh", "add", address, "lladdr", "02:00:00:00:00:01", "dev", "eth0")
    sh(*inside, "ip", "neigh", "add", "2001:2:0:10::77", "lladdr", "02:00:00:00:00:01", "dev", "eth0")
    found.append(sent("SOCK_DGRAM", "AF_INET", "198.18.10.11", 51820))
    found.append(sent("SOCK_DGRAM", "AF_INET", "198.18.10.11", 51821))
    found.append(sent("SOCK_STREAM", "AF_INET", "198.18.10.31", 443))
    found.append(sent("SOCK_DGRAM", "AF_INET", "198.19.10.80", 53))
    found.append(sent("SOCK_DGRAM", "AF_INET6", "2001:2:0:10::77", 53))
    flows = [[f.source, f.destination, f.protocol, f.port, f.packets] for f in leaks.flows()]
    sh(*inside, "ip", "link", "set", "eth0", "address", world.SERVERS[0].mac)
    before = leaks.read()
    found.append(sent("SOCK_DGRAM", "AF_INET", "198.18.10.1", 53).since(before))
    leaks.remove()
    print(json.dumps({"counts": [[getattr(c, n) for n in leaks.COUNTERS] for c in found], "flows": flows,
                      "in_place": leaks.in_place()}))
finally:
    exit_.kill()
    exit_.wait()
"""


def test_counts_are_compared_with_earlier_ones() -> None:
    later, earlier = Counts(9, 3, 2, 1, 5), Counts(4, 1, 2, 0, 5)
    assert later.since(earlier) == Counts(5, 2, 0, 1, 0)
    assert later.since(earlier).leaked == 2


@pytest.mark.parametrize("family", ["bridge", "inet"])
def test_every_server_and_endpoint_is_named(family: str) -> None:
    rules = leaks.ruleset(family)
    for server in world.SERVERS:
        assert server.mac in rules
        assert f"{server.entry} . {'tcp' if server.port == 443 else 'udp'} . {server.port}" in rules


@pytest.mark.usefixtures("namespaces")
def test_what_an_exit_sends_past_its_tunnel_is_counted() -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    counts = [Counts(*row) for row in told["counts"]]
    zero, tunnel, wrong_port, tunnel_tcp, outside, v6, server = counts
    assert zero == Counts(0, 0, 0, 0, 0)
    assert (tunnel.tunnel, tunnel.leaked) == (1, 0)
    assert (wrong_port.tunnel, wrong_port.leak_v4) == (1, 1)
    assert (tunnel_tcp.tunnel, tunnel_tcp.leak_v4) == (2, 1)
    assert (outside.leak_v4, outside.leak_v6) == (2, 0)
    assert (v6.leak_v4, v6.leak_v6) == (2, 1)
    assert server.leaked == 0
    assert ["198.18.10.130", "198.18.10.11", "udp", 51820, 1] in told["flows"]
    assert ["198.18.10.130", "198.19.10.80", "udp", 53, 1] in told["flows"]
    assert told["in_place"] is False
