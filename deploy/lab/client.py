"""What the lab asks of the running product: control's API, and one request through the proxy."""

import base64
import http.client
import json
from typing import Any

from deploy.lab import world
from deploy.lab.shell import LabError
from deploy.lab.state import HOST, USER, Memory, Place

TIMEOUT_S = 10.0


class ControlClient:
    """Control's API as its user `admin`. Every method raises LabError when it does not answer, or refuses."""

    def __init__(self, place: Place, memory: Memory) -> None:
        self._place = place
        self._port = memory.ports.api

    def create_user(self, password: str) -> None:
        """The lab's proxy user; no error where it is there already."""
        status, answer = self._request("POST", "/api/users", {"name": USER, "password": password})
        if status not in (201, 409):
            raise LabError(f"creating the proxy user failed: {_detail(answer)}")

    def set_pool(self, country: str, values: dict[str, Any]) -> None:
        status, answer = self._request("PUT", f"/api/pools/{country}", values)
        if status != 200:
            raise LabError(f"pool {country} was refused: {_detail(answer)}")

    def pools(self) -> dict[str, dict[str, Any]]:
        """Pools by country, with `desired`, `serving` and `reason`."""
        status, answer = self._request("GET", "/api/pools")
        if status != 200:
            raise LabError(f"control did not list its pools: {_detail(answer)}")
        return {pool["country"]: pool for pool in answer}

    def nodes(self) -> list[dict[str, Any]]:
        status, answer = self._request("GET", "/api/nodes")
        if status != 200:
            raise LabError(f"control did not list its nodes: {_detail(answer)}")
        found: list[dict[str, Any]] = answer if isinstance(answer, list) else answer["nodes"]
        return found

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        try:
            password = self._place.admin_password.read_text().strip()
        except OSError:
            raise LabError("control has written no admin password yet") from None
        headers = {"Authorization": _basic("admin", password), "Content-Type": "application/json"}
        connection = http.client.HTTPConnection(HOST, self._port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or b"null")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise LabError(f"control does not answer: {error}") from None
        finally:
            connection.close()


def seen_address(memory: Memory, country: str) -> str:
    """The address `whoami` sees when `country` is asked for through HAProxy; empty where the proxy gives no page."""
    connection = http.client.HTTPConnection(HOST, memory.ports.http, timeout=TIMEOUT_S)
    headers = {"Proxy-Authorization": _basic(f"{USER}-country-{country}", memory.password)}
    try:
        connection.request("GET", f"http://{world.WHOAMI}/", headers=headers)
        response = connection.getresponse()
        text = response.read(100).decode(errors="replace").strip()
        return text if response.status == http.client.OK else ""
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _detail(answer: Any) -> str:
    return str(answer.get("detail", answer)) if isinstance(answer, dict) else str(answer)[:200]
