"""Exits die while requests run all the time."""

import asyncio
import time

import pytest

from tests.lab.harness import Lab, traffic, wait_for

MARK = "vxmark0"


@pytest.mark.parametrize("redis", ["up", "stopped"])
async def test_a_killed_node_costs_only_what_was_on_it(lab: Lab, redis: str) -> None:
    nodes = lab.nodes("jp")
    assert len(nodes) == 2
    victim = lab.node_of("jp")
    mark_namespace(lab, victim)
    if redis == "stopped":
        lab.command("stop", "redis")
    try:
        before = lab.leaks()
        async with traffic(lab, "jp") as seen:
            await asyncio.sleep(1)
            await asyncio.to_thread(lab.docker, "kill", f"vpnexit-{victim}")
            killed = time.monotonic()
            gone = await asyncio.to_thread(wait_for, lambda: not marked(lab), 2 * 2, "the dead namespace is gone")
            await asyncio.sleep(4)
    finally:
        if redis == "stopped":
            lab.command("start", "redis")
    # In flight on the dead node: begun before it died, at most one for each client.
    assert all(started < killed + 0.5 for started, *_ in seen.bad()), seen.bad()
    assert len(seen.bad()) <= 4, seen.bad()
    assert seen.good_after(killed) < 1 * 2
    assert {body.strip() for _, _, status, body in seen.answers if status == 200} <= set(
        lab.status["countries"]["jp"]["egress"]
    )
    after = lab.leaks()
    assert (after["leak_v4"], after["leak_v6"]) == (before["leak_v4"], before["leak_v6"])
    print(f"namespace gone after {gone:.2f} s, next answer after {seen.good_after(killed):.2f} s, bad {seen.bad()}")


async def test_a_country_without_exits_says_so_and_comes_back_alone(lab: Lab) -> None:
    before, old = lab.leaks(), lab.nodes("jp")
    lab.docker("kill", *(f"vpnexit-{node}" for node in old))
    died = time.monotonic()
    # Both at once: successors serve within seconds.
    run, socks = await asyncio.gather(
        asyncio.to_thread(lab.curl, lab.proxy("jp"), "", "-w", "\n%{http_code} %{time_total}"),
        asyncio.to_thread(lab.curl, lab.proxy("jp", scheme="socks5h")),
    )
    *_, last = run.stdout.splitlines()
    status, took = last.split()
    assert status == "503", run.stdout
    assert "no exit is serving in jp now" in run.stdout
    assert float(took) < 1 * 2
    assert socks.returncode == 97
    assert "(1)" in socks.stderr  # general SOCKS server failure

    def back() -> bool:
        return lab.whoami("jp") in lab.status["countries"]["jp"]["egress"]

    await asyncio.to_thread(wait_for, back, 30 * 2, "jp serves again")
    print(f"jp back after {time.monotonic() - died:.1f} s")
    assert not set(lab.nodes("jp")) & set(old)
    after = lab.leaks()
    assert (after["leak_v4"], after["leak_v6"]) == (before["leak_v4"], before["leak_v6"])


def mark_namespace(lab: Lab, node: str) -> None:
    """One end of a veth pair inside the namespace, the other here: it vanishes with the namespace, not with the
    container's processes."""
    pid = lab.docker("inspect", "--format", "{{.State.Pid}}", f"vpnexit-{node}")
    add = ["ip", "link", "add", MARK, "type", "veth", "peer", "name", "vxmark1", "netns", pid]
    run = lab.run(*add)
    assert run.returncode == 0, run.stderr
    assert marked(lab)


def marked(lab: Lab) -> bool:
    return lab.run("ip", "link", "show", MARK).returncode == 0
