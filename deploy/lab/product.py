"""The product as the lab runs it: its configuration file and its processes, on the host, behind HAProxy."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy import redis_binary
from deploy.lab import images, world
from deploy.lab.shell import LabError
from deploy.lab.state import HOST, Memory, Place
from deploy.probes import http_ok, tcp_open, unix_open
from deploy.processes import Program

REPOSITORY = Path(__file__).resolve().parents[2]
FLEET = "lab"
PROVIDER = "lab"
ACCOUNT = "lab"
SLOTS = 10
# HAProxy is stopped first, which ends the clients' connections; what is left has this long.
GATEWAY_STOP_S = 10.0


def settings(place: Place, memory: Memory) -> dict[str, Any]:
    """The product's configuration: NordVPN's provider, pointed at the lab's API."""
    return {
        "state_dir": str(place.root),
        "redis": {"url": f"unix://{place.redis_socket}"},
        "gateway": {
            "workers": 1,  # each of the two gateways
            "require_auth": True,
            "allow_targets": [world.RANGE],
            "trusted_proxies": [f"{HOST}/32"],
        },
        "control": {
            "listen": f"{HOST}:{memory.ports.api}",
            "fleet": FLEET,
            "docker_host": memory.docker_host,
            "image": images.EXIT,
            "network": world.UPLINK,
            "provider": PROVIDER,
            "probe_name": world.WHOAMI_NAME,
            "probe_targets": list(world.PROBE_TARGETS),
            "gateways": [f"{HOST}:{port}" for port in memory.ports.gateways_metrics],
            "certificates": [str(place.servers.ca)],
        },
        "scorer": {"metrics_listen": f"{HOST}:{memory.ports.scorer_metrics}"},
        "collector": {"metrics_listen": f"{HOST}:{memory.ports.collector_metrics}"},
        # On demand only: tests that measure something else would meet those of a schedule.
        "speed_test": {
            "download_url": f"http://{world.WHOAMI}/bytes?n={{bytes}}",
            "upload_url": f"http://{world.WHOAMI}/sink",
            "every_hours": 0,
        },
        "nordvpn": {
            "api_url": f"http://{world.API}",
            "ca_file": str(place.servers.ca),
            "tls_auth_file": str(place.servers.tls_auth),
            "accounts": [{"name": ACCOUNT, "token_file": str(place.servers.token), "slots": SLOTS}],
        },
    }


def toml(values: dict[str, Any], prefix: str = "") -> str:
    """`values` as TOML: scalars and lists first, then tables, then arrays of tables."""
    plain, tables = [], []
    for key, value in values.items():
        if isinstance(value, dict):
            tables.append(f"\n[{prefix}{key}]\n{toml(value, f'{prefix}{key}.')}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += [f"\n[[{prefix}{key}]]\n{toml(item, f'{prefix}{key}.')}" for item in value]
        else:
            # JSON's strings, numbers, booleans and lists are TOML's as well (TOML 1.0, "String", "Array").
            plain.append(f"{key} = {json.dumps(value)}\n")
    return "".join(plain + tables)


def programs(place: Place, memory: Memory) -> list[Program]:
    """All processes, in the order in which they are started.

    Raises:
        LabError: there is no redis-server that can be used.
    """
    return [
        _redis(place),
        _own(place, "control", ready=http_ok(HOST, memory.ports.api, "/api/health")),
        *_pair(place, "collector"),
        *_pair(place, "scorer"),
        *(_gateway(place, memory, number) for number in (0, 1)),
        _haproxy(place, memory),
    ]


def _redis(place: Place) -> Program:
    try:
        binary = redis_binary.find()
    except redis_binary.NoRedisError as error:
        raise LabError(str(error)) from None
    # Every write goes to the append-only file within a second; the lab's state is small, so no snapshots besides.
    options = {
        "port": "0",
        "unixsocket": str(place.redis_socket),
        "unixsocketperm": "700",
        "dir": str(place.redis),
        "appendonly": "yes",
        "save": "",
    }
    return Program(
        name="redis",
        argv=[binary, *(part for name, value in options.items() for part in (f"--{name}", value))],
        log=place.output / "redis.log",
        ready=unix_open(place.redis_socket),
    )


def _own(place: Place, name: str, **options: Any) -> Program:
    return Program(
        name=name,
        argv=[sys.executable, "-m", "deploy.cli", name, "--config", place.config],
        cwd=REPOSITORY,
        log=place.output / f"{name}.log",
        **options,
    )


def _pair(place: Place, name: str) -> list[Program]:
    """Two of the same: one works, the other stands by."""
    one = _own(place, name)
    return [one, replace(one, name=f"{name}2", log=place.output / f"{name}2.log")]


def _gateway(place: Place, memory: Memory, number: int) -> Program:
    metrics = memory.ports.gateways_metrics[number]
    environment = {
        "VPNEXIT_GATEWAY__LISTEN": f"{HOST}:{memory.ports.gateways[number]}",
        "VPNEXIT_GATEWAY__METRICS_LISTEN": f"{HOST}:{metrics}",
    }
    return Program(
        name=f"gateway{number + 1}",
        argv=[sys.executable, "-m", "deploy.cli", "gateway", "--config", place.config],
        env={**os.environ, **environment},
        cwd=REPOSITORY,
        log=place.output / f"gateway{number + 1}.log",
        ready=http_ok(HOST, metrics, "/ready"),
        stop_within=GATEWAY_STOP_S,
    )


def _haproxy(place: Place, memory: Memory) -> Program:
    environment = {
        "VPNEXIT_HAPROXY_ADDRESS": HOST,
        "VPNEXIT_HAPROXY_HTTP_PORT": str(memory.ports.http),
        "VPNEXIT_HAPROXY_SOCKS_PORT": str(memory.ports.socks),
        "VPNEXIT_HAPROXY_SOCKET": str(place.haproxy_socket),
        "VPNEXIT_HAPROXY_METRICS": f"{HOST}:{memory.ports.haproxy_metrics}",
    }
    for number in (0, 1):
        environment[f"VPNEXIT_HAPROXY_GATEWAY{number + 1}"] = f"{HOST}:{memory.ports.gateways[number]}"
        environment[f"VPNEXIT_HAPROXY_GATEWAY{number + 1}_READY"] = str(memory.ports.gateways_metrics[number])
    return Program(
        name="haproxy",
        argv=["haproxy", "-W", "-f", REPOSITORY / "haproxy" / "haproxy.cfg"],
        env={**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin", **environment},
        log=place.output / "haproxy.log",
        ready=tcp_open(HOST, memory.ports.http),
    )
