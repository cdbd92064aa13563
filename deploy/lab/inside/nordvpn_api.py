"""Stands in for NordVPN's HTTP API: the same paths, fields and errors, for the lab's own servers.

What it tells comes from one file, read again for every request, so that a test changes the world by writing it:

    {"countries": [{"id", "name", "code", "cities": [{"id", "name", "dns_name", "latitude", "longitude"}]}],
     "servers": [{"id", "name", "hostname", "station", "load", "status", "country": "JP", "city": "Tokyo",
                  "technologies": {"wireguard_udp": {"public_key": "…"}}, "specifications": {}}],
     "accounts": [{"token", "username", "password", "nordlynx_private_key", "forbidden": false}],
     "egress": {"198.19.10.11": "JP"},
     "faults": {"/v1/servers": {"seconds": 0.0, "status": 429, "headers": {"Retry-After": "60"}, "body": "<html>"}}}

A path with a fault waits so long and then answers that, whatever was asked; `faults` may be left out.
Fields as published by api.nordvpn.com/v1; the 401 body is the one its clients report (code 101301).
"""

import argparse
import asyncio
import base64
import binascii
import hmac
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

STAMP = "2026-01-01 00:00:00"
ELSEWHERE = {"id": 0, "name": "Elsewhere", "code": "ZZ", "cities": [{"name": "Nowhere", "latitude": 0, "longitude": 0}]}

TECHNOLOGIES: dict[str, tuple[int, str]] = {
    "ikev2": (1, "IKEv2/IPSec"),
    "openvpn_udp": (3, "OpenVPN UDP"),
    "openvpn_tcp": (5, "OpenVPN TCP"),
    "proxy_ssl": (21, "HTTP Proxy (SSL)"),
    "wireguard_udp": (35, "Wireguard"),
}

World = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def technology(identifier: str, server: int | None = None, metadata: dict[str, str] | None = None) -> dict[str, Any]:
    """One entry of `technologies`: as a server carries it (`pivot`, `metadata`), or as the catalogue lists it."""
    number, name = TECHNOLOGIES[identifier]
    entry: dict[str, Any] = {"id": number, "name": name, "identifier": identifier}
    entry |= {"internal_identifier": identifier, "created_at": STAMP, "updated_at": STAMP}
    if server is not None:
        entry["metadata"] = [{"name": name, "value": value} for name, value in (metadata or {}).items()]
        entry["pivot"] = {"technology_id": number, "server_id": server, "status": "online"}
    return entry


def location(country: dict[str, Any], city: dict[str, Any]) -> dict[str, Any]:
    place = {"latitude": city["latitude"], "longitude": city["longitude"]}
    own = {"id": country["id"], "name": country["name"], "code": country["code"], "city": {**city, "hub_score": None}}
    return {"id": city["id"], "created_at": STAMP, "updated_at": STAMP, **place, "country": own}


def specification(number: int, identifier: str, value: str) -> dict[str, Any]:
    return {
        "id": number,
        "title": identifier.replace("_", " ").title(),
        "identifier": identifier,
        "values": [{"id": number, "value": value}],
    }


def described(server: dict[str, Any], countries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A server with every field that clients of the true API read."""
    country = countries[server["country"]]
    city = next(city for city in country["cities"] if city["name"] == server["city"])
    number = server["id"]
    specifications = [specification(8, "version", "2.1.0")]
    specifications += [specification(51, name, str(value)) for name, value in server.get("specifications", {}).items()]
    return {
        "id": number,
        "created_at": STAMP,
        "updated_at": STAMP,
        "name": server["name"],
        "station": server["station"],
        "ipv6_station": "",
        "hostname": server["hostname"],
        "load": server["load"],
        "status": server["status"],
        "type": "vpn",
        "locations": [location(country, city)],
        "services": [{"id": 1, "name": "VPN", "identifier": "vpn", "created_at": STAMP, "updated_at": STAMP}],
        "technologies": [technology(name, number, data) for name, data in server["technologies"].items()],
        "groups": [
            {
                "id": 11,
                "title": "Standard VPN servers",
                "identifier": "legacy_standard",
                "type": {"id": 3, "title": "Legacy category", "identifier": "legacy_group_category"},
                "created_at": STAMP,
                "updated_at": STAMP,
            }
        ],
        "specifications": specifications,
        "ips": [
            {
                "id": number,
                "server_id": number,
                "ip_id": number,
                "type": "entry",
                "ip": {"id": number, "ip": server["station"], "version": 4},
                "created_at": STAMP,
                "updated_at": STAMP,
            }
        ],
    }


def limit(request: web.Request, default: int) -> int | None:
    """How many entries are wanted; None means all (`limit=0`)."""
    text = request.query.get("limit", str(default))
    if not text.isdigit():
        raise refusal(400, 100400, "Invalid limit")
    return int(text) or None


def refusal(status: int, code: int, message: str) -> web.HTTPException:
    """An error as the true API words it."""
    kind = {400: web.HTTPBadRequest, 401: web.HTTPUnauthorized, 403: web.HTTPForbidden}[status]
    body = json.dumps({"errors": {"code": code, "message": message}}, separators=(",", ":"))
    return kind(text=body, content_type="application/json")


def countries_by_code(world: World) -> dict[str, dict[str, Any]]:
    return {country["code"]: country for country in world["countries"]}


def recommended(world: World, query: Any) -> list[dict[str, Any]]:
    """Online servers that pass the filters, the least loaded first."""
    country_id = query.get("filters[country_id]")
    identifier = query.get("filters[servers_technologies][identifier]")
    number = query.get("filters[servers_technologies][id]")
    countries = countries_by_code(world)
    found = []
    for server in sorted(world["servers"], key=lambda server: (server["load"], server["id"])):
        offered = server["technologies"]
        wrong_country = country_id is not None and str(countries[server["country"]]["id"]) != country_id
        wrong_technology = identifier is not None and identifier not in offered
        wrong_number = number is not None and number not in {str(TECHNOLOGIES[name][0]) for name in offered}
        if server["status"] == "online" and not (wrong_country or wrong_technology or wrong_number):
            found.append(described(server, countries))
    return found


class Api:
    """The handlers, over the world described in one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self.faulty])
        app.router.add_get("/v1/servers", self.servers)
        app.router.add_get("/v1/servers/recommendations", self.recommendations)
        app.router.add_get("/v1/servers/countries", self.countries)
        app.router.add_get("/v1/technologies", self.technologies)
        app.router.add_get("/v1/helpers/ips/insights", self.insights)
        app.router.add_get("/v1/users/services/credentials", self.credentials)
        return app

    @web.middleware
    async def faulty(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = self.world().get("faults", {}).get(request.path)
        if fault is None:
            return await handler(request)
        await asyncio.sleep(fault.get("seconds", 0.0))
        if "status" not in fault:
            return await handler(request)
        kind = fault.get("headers", {}).get("Content-Type", "text/html")
        headers = {name: value for name, value in fault.get("headers", {}).items() if name != "Content-Type"}
        return web.Response(status=fault["status"], headers=headers, text=fault.get("body", ""), content_type=kind)

    def world(self) -> World:
        world: World = json.loads(self._path.read_text())
        return world

    async def recommendations(self, request: web.Request) -> web.Response:
        return web.json_response(recommended(self.world(), request.query)[: limit(request, 5)])

    async def servers(self, request: web.Request) -> web.Response:
        world = self.world()
        countries = countries_by_code(world)
        return web.json_response([described(server, countries) for server in world["servers"]][: limit(request, 100)])

    async def countries(self, _request: web.Request) -> web.Response:
        world = self.world()
        count = Counter(server["country"] for server in world["servers"])
        return web.json_response([{**country, "serverCount": count[country["code"]]} for country in world["countries"]])

    async def technologies(self, _request: web.Request) -> web.Response:
        return web.json_response([technology(name) for name in TECHNOLOGIES])

    async def insights(self, request: web.Request) -> web.Response:
        return web.json_response(seen(self.world(), request.remote or ""))

    async def credentials(self, request: web.Request) -> web.Response:
        token = offered_token(request).encode()
        for number, account in enumerate(self.world()["accounts"], start=1):
            if hmac.compare_digest(account["token"].encode(), token):
                if account.get("forbidden"):
                    raise refusal(403, 100403, "Forbidden")
                names = ("username", "password", "nordlynx_private_key")
                stamps = {"created_at": STAMP, "updated_at": STAMP}
                return web.json_response({"id": number, **stamps, **{name: account[name] for name in names}})
        raise refusal(401, 101301, "Unauthorized")


def seen(world: World, address: str) -> dict[str, Any]:
    """Where `address` seems to be; `protected` is true for the egress addresses of the servers."""
    code = world["egress"].get(address, "ZZ")
    country = countries_by_code(world).get(code, ELSEWHERE)
    city = country["cities"][0]
    return {
        "ip": address,
        "country": country["name"],
        "country_code": country["code"],
        "region": "",
        "zip_code": "",
        "city": city["name"],
        "state_code": "",
        "longitude": city["longitude"],
        "latitude": city["latitude"],
        "isp": "The Lab",
        "isp_asn": 64496,
        "gdpr": False,
        "protected": address in world["egress"],
    }


def offered_token(request: web.Request) -> str:
    """The access token of a Basic authorization of user `token`, or nothing."""
    scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
    try:
        user, _, password = base64.b64decode(rest, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return password if scheme.lower() == "basic" and user == "token" else ""


async def serve(world: Path, port: int) -> None:
    runner = web.AppRunner(Api(world).application(), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--port", type=int, default=80)
    options = parser.parse_args()
    asyncio.run(serve(options.world, options.port))


if __name__ == "__main__":
    main()
