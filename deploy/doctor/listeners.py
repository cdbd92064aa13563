"""The addresses to listen on: free, or ours already?"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

from deploy import ports
from deploy.config import Settings, variable
from deploy.doctor.model import Finding, failed, ok, warning

OURS = ("vpnexit", "haproxy", "deploy.cli", "gateway", "gateway.supervisor")


@dataclass(frozen=True, slots=True)
class Address:
    """`fault`: why nothing can listen there; `command`: that of who does, empty where it is not to be seen."""

    address: str
    key: tuple[str, str]
    fault: str = ""
    command: tuple[str, ...] = ()


def look(settings: Settings) -> list[Address]:
    wanted = [(address, ("gateway", "listen")) for address in settings.gateway.listen]
    wanted.append((settings.gateway.metrics_listen, ("gateway", "metrics_listen")))
    wanted.append((settings.control.listen, ("control", "listen")))
    return [_look(address, key) for address, key in wanted]


def _look(address: str, key: tuple[str, str]) -> Address:
    fault = ports.fault(address)
    return Address(address, key, fault, ports.holder_command(*ports.split(address)) if fault else ())


def judge(seen: Iterable[Address]) -> Iterator[Finding]:
    for one in seen:
        name = f"address {one.address}"
        change = f"change {'.'.join(one.key)} ({variable(*one.key)})"
        if not one.fault:
            yield ok(name, "free")
        elif ours(one.command):
            yield ok(name, f"in use by {PurePath(one.command[0]).name}, ours")
        elif not one.command and "taken" in one.fault:
            yield warning(
                name, one.fault, "It may be ours: whose it is can only be seen as root.", f"as root: ss -ltnp; {change}"
            )
        else:
            yield failed(
                name, one.fault, f"{one.key[0].capitalize()} does not start.", f"end that program, or {change}"
            )


def ours(command: tuple[str, ...]) -> bool:
    """Whether a command line is of one of our programs, or of the HAProxy in front of them."""
    names = [PurePath(word).name for word in command[:4]]
    return any(name in OURS for name in names)
