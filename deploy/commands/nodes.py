"""`vpnexit nodes`: exits, one by one."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any

import typer

from deploy.api_client import ApiError, UnreachableError
from deploy.commands import output, waiting
from deploy.commands.ask import Ask, command
from deploy.commands.output import Column
from deploy.commands.waiting import Timeout, Wait
from deploy.commands.words import Country, NodeId, segment, word

FOLLOW_EVERY_S = 1.0
MAX_LINES = 1000

app = typer.Typer(no_args_is_help=True, help="Exits: list, start, stop, look into.")

_COLUMNS = (
    Column("id"),
    Column("country"),
    Column("city", wide=True),
    Column("kind", wide=True),
    Column("status"),
    Column("health"),
    Column("exit address"),
    Column("server", wide=True),
    Column("reason", folds=True),
)
_SPEED_COLUMNS = (
    Column("tested at"),
    Column("node"),
    Column("down Mbit/s", justify="right"),
    Column("up Mbit/s", justify="right"),
    Column("ms", justify="right"),
    Column("error", folds=True),
)


@command(app, "list", "vpnexit nodes list --country jp")
def list_nodes(
    ask: Ask,
    country: Annotated[str, typer.Option(metavar="COUNTRY", help="Only those of this country.")] = "",
    status: Annotated[
        str, typer.Option(metavar="STATUS", help="Only running, starting, stopping, stopped or error.")
    ] = "",
) -> None:
    """All nodes, one a line."""
    filters = {"country": word(country), "status": word(status)}
    found = ask.api.get("/api/nodes", **{name: value for name, value in filters.items() if value})
    if ask.as_json:
        return output.as_json(found)
    return output.table(_COLUMNS, [_row(node) for node in found])


@command(app, "show", "vpnexit nodes show jp3f9a1c")
def show_node(ask: Ask, node_id: NodeId) -> None:
    """Everything about one node."""
    ask.record(ask.api.get(f"/api/nodes/{segment(node_id)}"))


@command(app, "start", "vpnexit nodes start jp --wait --timeout 60")
def start_node(
    ask: Ask,
    country: Country,
    server: Annotated[str, typer.Option(metavar="NAME", help="A certain VPN server.")] = "",
    city: Annotated[str, typer.Option(metavar="NAME", help="A certain city.")] = "",
    protocol: Annotated[str, typer.Option(metavar="NAME", help="openvpn_udp, openvpn_tcp or wireguard.")] = "",
    wait: Wait = False,
    timeout: Timeout = 60,
) -> None:
    """Start one more node of a country."""
    wish = {"server": word(server), "city": word(city), "protocol": word(protocol)}
    body = {name: value for name, value in wish.items() if value}
    answer = ask.api.post(f"/api/nodes/{segment(country)}/start", body)
    if wait:
        return wait_for_node(ask, answer["node_id"], timeout)
    return ask.answer(answer, f"{answer['node_id']} is {answer['status']}")


@command(app, "stop", "vpnexit nodes stop jp3f9a1c")
def stop_node(ask: Ask, node_id: NodeId) -> None:
    """Drain a node, then stop it; its country has one node less from then on."""
    answer = ask.api.delete(f"/api/nodes/{segment(node_id)}/stop")
    ask.answer(answer, f"{answer['node_id']} is {answer['status']}")


@command(app, "restart", "vpnexit nodes restart jp3f9a1c --wait")
def restart_node(ask: Ask, node_id: NodeId, wait: Wait = False, timeout: Timeout = 60) -> None:
    """Replace a node: its successor serves first, then it is drained and stopped."""
    before = _neighbours(ask, node_id) if wait else set()
    answer = ask.api.post(f"/api/nodes/{segment(node_id)}/restart", {})
    if not wait:
        return ask.answer(answer, f"{answer['node_id']} is {answer['status']}")
    # The node itself is answered where its successor has to wait until others are done, or until it is gone.
    successor = answer["node_id"] if answer["node_id"] != node_id else _replaced(ask, answer, before, timeout)
    return wait_for_node(ask, successor, timeout)


@command(app, "logs", "vpnexit nodes logs jp3f9a1c --follow")
def node_logs(
    ask: Ask,
    node_id: NodeId,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=1, max=MAX_LINES, help="So many of the last ones.")
    ] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", metavar="", help="Go on with new lines, until Ctrl-C.")
    ] = False,
) -> None:
    """The last lines of a node's log. With --follow and --json, a document for each line."""
    path = f"/api/nodes/{segment(node_id)}/logs"
    answer = ask.api.get(path, lines=lines)
    if ask.as_json and not follow:
        return output.as_json(answer)
    written = answer["logs"].splitlines()
    _write(written, node_id, ask.as_json)
    while follow:
        time.sleep(FOLLOW_EVERY_S)
        try:
            now = ask.api.get(path, lines=MAX_LINES)["logs"].splitlines()
        except UnreachableError as error:
            output.note(f"vpnexit: {error}; asking again")
            continue
        _write(unseen(written, now), node_id, ask.as_json)
        written = now
    return None


@command(app, "score", "vpnexit nodes score jp3f9a1c")
def node_score(ask: Ask, node_id: NodeId) -> None:
    """A node's score, and every term it is made of."""
    ask.record(ask.api.get(f"/api/nodes/{segment(node_id)}/score"))


@command(app, "speed-test", "vpnexit nodes speed-test jp3f9a1c --wait")
def speed_test(
    ask: Ask,
    node_id: NodeId,
    wait: Annotated[bool, typer.Option("--wait", metavar="", help="Return only when there is a result.")] = False,
    timeout: Timeout = 60,
) -> None:
    """Measure what a node's tunnel carries, against the configured endpoint."""
    answer = ask.api.post(f"/api/speed-test/{segment(node_id)}?wait=0", {})
    if wait and not answer["tested_at"]:
        results = f"/api/speed-test/results/{segment(node_id)}"

        def look() -> Mapping[str, Any]:
            newest: list[Mapping[str, Any]] = ask.api.get(results, limit=10)
            return next((one for one in newest if one["id"] == begun["id"]), begun)

        begun = answer
        answer, _ = waiting.until(look, waiting.speed_stand, timeout)
    stand = waiting.speed_stand(answer)
    if stand.failed:
        if ask.as_json:
            output.as_json(answer)
        raise ApiError(stand.text)
    ask.answer(answer, stand.text)


@command(app, "speeds", "vpnexit nodes speeds jp3f9a1c --limit 5")
def speeds(
    ask: Ask,
    node_id: Annotated[str, typer.Argument(metavar="[NODE]", help="Only of this node.", show_default=False)] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="So many of the newest.")] = 20,
) -> None:
    """The results of speed tests of the last 30 days, newest first."""
    of_one = f"/{segment(node_id)}" if node_id else ""
    found = ask.api.get(f"/api/speed-test/results{of_one}", limit=limit)
    if ask.as_json:
        return output.as_json(found)
    return output.table(_SPEED_COLUMNS, [_speed_row(result) for result in found])


def unseen(before: Sequence[str], now: Sequence[str]) -> Sequence[str]:
    """The lines of `now`, the end of a log, that come after `before`, an earlier end of it."""
    for end in range(len(now), 0, -1):
        both = min(len(before), end)
        # The last lines are compared first: they seldom are the same by chance.
        if both and now[end - 1] == before[-1] and list(now[end - both : end]) == list(before[-both:]):
            return now[end:]
    return now


def wait_for_node(ask: Ask, node_id: str, timeout: float) -> None:
    """Until the node serves. Raises ApiError where it does not."""
    node, stand = waiting.until(lambda: ask.api.get(f"/api/nodes/{segment(node_id)}"), waiting.node_stand, timeout)
    if stand.failed:
        if ask.as_json:
            output.as_json(node)
        raise ApiError(stand.text)
    ask.answer(node, stand.text)


def _neighbours(ask: Ask, node_id: str) -> set[str]:
    """All nodes of a node's country, itself included."""
    country = ask.api.get(f"/api/nodes/{segment(node_id)}")["country"]
    return set(ask.api.get(f"/api/pools/{segment(country)}")["nodes"])


def _replaced(ask: Ask, node: Mapping[str, Any], before: AbstractSet[str], timeout: float) -> str:
    """Wait until `node` is gone and its pool complete again; the one that came. Raises ApiError where none did."""
    path = f"/api/pools/{segment(node['country'])}"
    pool, _ = waiting.until(
        lambda: ask.api.get(path), lambda now: waiting.rotation_stand(now, {node["node_id"]}), timeout
    )
    came = sorted(set(pool["nodes"]) - before)
    if not came:
        raise ApiError(f"{node['node_id']} is gone, and nothing took its place: {waiting.pool_stand(pool).text}")
    return str(came[0])


def _row(node: Mapping[str, Any]) -> list[str]:
    score = node.get("score")
    return [
        node["id"],
        node["country"],
        node.get("city") or "",
        node.get("kind") or "",
        node["status"],
        node["health_status"] + ("" if score is None else f" {score:.0f}"),
        node.get("exit_ip") or "",
        node.get("vpn_server") or node.get("upstream") or "",
        node.get("reason") or "",
    ]


def _speed_row(result: Mapping[str, Any]) -> list[str]:
    figures = (result[name] for name in ("download_mbps", "upload_mbps", "latency_ms"))
    tested_at = str(result["tested_at"])[:19].replace("T", " ")
    shown = ("" if value is None else f"{value:.1f}" for value in figures)
    return [tested_at, result["node_id"], *shown, result["error"]]


def _write(lines: Sequence[str], node_id: str, as_json: bool) -> None:
    for line in _harmless(lines):
        if as_json:
            output.json_line({"node_id": node_id, "line": line})
        else:
            print(line)
    sys.stdout.flush()


def _harmless(lines: Sequence[str]) -> Iterator[str]:
    return (output.harmless(line, keep="\t") for line in lines)
