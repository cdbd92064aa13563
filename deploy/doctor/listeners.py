"""The addresses to listen on: free, or ours already?"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from deploy import ports
from deploy.config import Settings, variable
from deploy.doctor.model import Finding, failed, ok, warning
from deploy.doctor.ownership import state_dir_of


@dataclass(frozen=True, slots=True)
class Address:
    """`fault`: why nothing can listen there; `program`: who does, empty where it is not to be seen.

    `state_dir` is that of the vpnexit that listens there, None for another program; `own` is ours.
    """

    address: str
    key: tuple[str, str]
    fault: str = ""
    program: str = ""
    state_dir: Path | None = None
    own: Path | None = None


def look(settings: Settings) -> list[Address]:
    wanted = [(address, ("gateway", "listen")) for address in settings.gateway.listen]
    wanted.append((settings.gateway.metrics_listen, ("gateway", "metrics_listen")))
    wanted.append((settings.control.listen, ("control", "listen")))
    return [_look(address, key, settings.state_dir.resolve()) for address, key in wanted]


def _look(address: str, key: tuple[str, str], own: Path) -> Address:
    fault = ports.fault(address)
    holder = ports.holding_program(*ports.split(address)) if fault else None
    if holder is None:
        return Address(address, key, fault)
    return Address(address, key, fault, PurePath(holder.command[0]).name, state_dir_of(holder), own)


def judge(seen: Iterable[Address]) -> Iterator[Finding]:
    for one in seen:
        name = f"address {one.address}"
        change = f"change {'.'.join(one.key)} ({variable(*one.key)})"
        if not one.fault:
            yield ok(name, "free")
        elif one.state_dir is not None and one.state_dir == one.own:
            yield ok(name, f"in use by {one.program}, ours")
        elif not one.program and "taken" in one.fault:
            yield warning(
                name, one.fault, "It may be ours: whose it is can only be seen as root.", f"as root: ss -ltnp; {change}"
            )
        else:
            other = f", another vpnexit with state directory {one.state_dir}" if one.state_dir else ""
            meaning = f"{one.key[0].capitalize()} does not start."
            yield failed(name, f"{one.fault}{other}", meaning, f"end that program, or {change}")
