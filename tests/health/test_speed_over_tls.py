"""Speed tests against an endpoint that speaks TLS, as the collector's own process makes them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.health.registry.certificates import DAY, Authority
from tests.health.speed_node import ROOT, SpeedNode

NODE = "jp3f9a1c"
# On uvloop, with the authorities that were found at the start. The one who says nothing is at port 81.
MEASURES = """
import dataclasses, json, sys, uvloop
from health import speed_line
from health.config import SpeedTestSettings
from health.speed_measure import measure
from tests.health.speed_node import connect
node, path, *places = sys.argv[1:]
for place in places:
    speed_line.CONNECT_S = seconds = 0.5 if place.endswith(":81") else 20
    urls = {"download_url": f"https://{place}/bytes?n={{bytes}}", "upload_url": f"https://{place}/sink"}
    settings = SpeedTestSettings(**urls, bytes=1_000_000, seconds=seconds)
    print(json.dumps(dataclasses.asdict(uvloop.run(measure(settings, node, path, connect)))))
"""


def over_tls(node: SpeedNode, authority: str, *places: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-c", MEASURES, node.id, node.path, *places],
        env={**os.environ, "SSL_CERT_FILE": authority},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_endpoint_that_speaks_tls(tmp_path: Path) -> None:
    """It is who it says it is, by an authority that the operator named; else nothing is sent to it."""
    ours, strangers = Authority(tmp_path, "ours"), Authority(tmp_path, "strangers")
    ours.issue("good", ["public.test", "9.9.9.9"])
    ours.issue("other", ["other.test"])
    ours.issue("over", ["public.test"], valid=-DAY)
    strangers.issue("strange", ["public.test"])
    certificates = {443: "good", 444: "other", 445: "over", 446: "strange"}
    node = SpeedNode(NODE, tmp_path, *(f"{port}={tmp_path}/{name}" for port, name in certificates.items()))
    try:
        named, numeric, other, over, strange, plain, silent = over_tls(
            node, str(ours.file), "public.test", "9.9.9.9", *(f"public.test:{port}" for port in (444, 445, 446, 82, 81))
        )
        (unknown,) = over_tls(node, str(strangers.file), "public.test")
    finally:
        node.close()
    for found in (named, numeric):
        assert (found["reason"], found["error"], found["moved"]) == ("ok", "", 2_000_000)
        assert min(found["download_mbps"], found["upload_mbps"], found["latency_ms"]) > 0
    for found, words in (
        (other, "certificate is not accepted: Hostname mismatch, certificate is not valid for 'public.test'"),
        (over, "certificate is not accepted: certificate has expired"),
        (strange, "certificate is not accepted: unable to get local issuer certificate"),
        (unknown, "certificate is not accepted: unable to get local issuer certificate"),
        (plain, "TLS with the endpoint failed: "),
    ):
        assert (found["reason"], found["moved"], found["download_mbps"]) == ("target_protocol", 0, None)
        assert found["error"].removeprefix("the endpoint's ").startswith(words)
        assert "Error" not in found["error"]
        assert "[" not in found["error"]
    assert (silent["reason"], silent["moved"]) == ("target_timeout", 0)
