"""`vpnexit countries`, `best`, `stats`."""

import json
from typing import Any

from tests.deploy.commands.standin import REQUEST_ID, StandIn, node


def test_countries(standin: StandIn, cli: Any) -> None:
    standin.answers["GET /api/countries"] = (200, ["gb", "jp"])
    assert [row.split() for row in cli("countries").stdout.splitlines()[1:]] == [
        ["gb", "United", "Kingdom", "10826"],
        ["jp", "Japan", "10392"],
    ]
    assert json.loads(cli("countries", "--json").stdout) == ["gb", "jp"]


def test_best(standin: StandIn, cli: Any) -> None:
    answer = {"country": "jp", "node_id": "jp3f9a1c", "server": "jp514", "score": 87.25, "node": node()}
    standin.answers["GET /api/load-balancer/best-node/jp"] = (200, answer)
    shown = dict(line.rsplit(None, 1) for line in cli("best", "jp").stdout.splitlines())
    assert (shown["node id"], shown["exit ip"]) == ("jp3f9a1c", "198.18.10.11")
    assert json.loads(cli("best", "jp", "--json").stdout) == answer
    standin.answers["GET /api/load-balancer/best-node/jp"] = (404, {"detail": "no node is serving in jp now"})
    done = cli("best", "jp")
    assert (done.returncode, done.stderr) == (1, f"vpnexit: no node is serving in jp now (404, request {REQUEST_ID})\n")


def test_stats(standin: StandIn, cli: Any) -> None:
    answer = {"total_nodes": 4, "active_nodes": 2, "total_traffic": 123_456_789, "connected_clients": 17}
    standin.answers["GET /api/stats"] = (200, answer)
    assert "total traffic      123 MB\n" in cli("stats").stdout
    assert json.loads(cli("stats", "--json").stdout) == answer
