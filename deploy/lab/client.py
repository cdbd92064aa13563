"""What the lab asks of the running product: control's API, and one request through the proxy."""

import base64
import http.client
from collections.abc import Callable
from typing import Any

from deploy.api_client import ApiClient, ApiError, read_password
from deploy.lab import world
from deploy.lab.shell import LabError
from deploy.lab.state import HOST, USER, Memory, Place

TIMEOUT_S = 10.0


class ControlClient:
    """Control's API as its user `admin`. Every method raises LabError when it does not answer, or refuses."""

    def __init__(self, place: Place, memory: Memory) -> None:
        try:
            self._api = ApiClient(f"{HOST}:{memory.ports.api}", read_password(place.root))
        except ApiError as error:
            raise LabError(str(error)) from None

    def create_user(self, password: str) -> None:
        """The lab's proxy user, unless it is there already."""
        if USER not in {user["name"] for user in self._ask(self._api.get, "/api/users")}:
            self._ask(self._api.post, "/api/users", {"name": USER, "password": password})

    def set_pool(self, country: str, values: dict[str, Any]) -> None:
        self._ask(self._api.put, f"/api/pools/{country}", values)

    def pools(self) -> dict[str, dict[str, Any]]:
        """Pools by country, with `desired`, `serving` and `reason`."""
        return {pool["country"]: pool for pool in self._ask(self._api.get, "/api/pools")}

    def nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask(self._api.get, "/api/nodes")
        return found

    def _ask(self, method: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except ApiError as error:
            raise LabError(f"control: {error}") from None


def seen_address(memory: Memory, country: str) -> str:
    """The address `whoami` sees when `country` is asked for through HAProxy; empty where the proxy gives no page."""
    connection = http.client.HTTPConnection(HOST, memory.ports.http, timeout=TIMEOUT_S)
    offered = base64.b64encode(f"{USER}-country-{country}:{memory.password}".encode()).decode()
    try:
        connection.request("GET", f"http://{world.WHOAMI}/", headers={"Proxy-Authorization": f"Basic {offered}"})
        response = connection.getresponse()
        text = response.read(100).decode(errors="replace").strip()
        return text if response.status == http.client.OK else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
