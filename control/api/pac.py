"""/proxy.pac: a browser's automatic proxy configuration. Open: a browser that fetches it cannot log in.

It names no user and no secret, and never `DIRECT`: where the proxy is gone, a page fails rather than leave from the
client's own address.
"""

import ipaddress
import re

from aiohttp import web

from control.api.bodies import CountryQuery, Empty
from control.api.errors import bad_request
from control.api.table import Call, Table
from health import countries

PORT = 3128
MEDIA = "application/x-ns-proxy-autoconfig"
_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)

table = Table("clients")


@table.add("GET", "/proxy.pac", "pac", scope=None, query=CountryQuery, media=MEDIA)
async def proxy_pac(call: Call[Empty, CountryQuery]) -> web.Response:
    """A browser's proxy configuration

    The proxy is the host that this was fetched from, on port 3128, or on the country's port (10000 and its ISO number),
    which HAProxy serves.
    """
    host = proxy_host(call.request.headers.get("Host", ""))
    country = call.query.country
    text = script(host, PORT if country is None else countries.port(country))
    return web.Response(body=text.encode(), headers={"Content-Type": MEDIA, "Cache-Control": "no-cache"})


def proxy_host(field: str) -> str:
    """The host of a Host field, if it is one that may stand in the script. Raises ApiError 400."""
    if field.startswith("["):
        text, closed, _ = field[1:].partition("]")
        try:
            if not closed:
                raise ValueError(field)
            return f"[{ipaddress.IPv6Address(text)}]"
        except ValueError:
            raise bad_request("the Host field is no address") from None
    name = field.partition(":")[0]
    if not _NAME.fullmatch(name):
        raise bad_request("the Host field is no host name")
    return name


def script(host: str, port: int) -> str:
    """The configuration that sends everything to one proxy."""
    return f'function FindProxyForURL(url, host) {{\n  return "PROXY {host}:{port}";\n}}\n'
