"""What `up` makes sure of before it starts anything; each fault ends in a line that says what to do."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from control.config import join_listen
from deploy import ports, redis_binary
from deploy.config import Settings, variable

_SOCKET_PATH_MAX = 107  # unix(7): sun_path, less its terminating NUL


class UpError(Exception):
    """`up` cannot go on; each line of the text is one thing to put right."""


def find_redis() -> Path:
    """The redis-server to start. Raises UpError."""
    try:
        return redis_binary.find()
    except redis_binary.NoRedisError as error:
        raise UpError(f"{error}, or name a running one with --redis") from None


@contextlib.contextmanager
def only_one(state_dir: Path) -> Iterator[None]:
    """Hold the state directory while inside. Raises UpError where it is held already, or cannot be used."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (state_dir / "up.lock").open("a+")
    except OSError as error:
        raise UpError(
            f"cannot use the state directory {state_dir} ({error.strerror}): choose another with --state-dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UpError(
                f"already up with {state_dir} (process {lock.read().strip() or 'unknown'}): "
                "stop that one, or choose another directory with --state-dir"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def socket_directory(state_dir: Path) -> Iterator[Path]:
    """The state directory, or a private one with a shorter name where a socket's path would be too long."""
    if len(os.fsencode(state_dir / "redis.sock")) <= _SOCKET_PATH_MAX:
        yield state_dir
        return
    directory = Path(tempfile.mkdtemp(prefix="vpnexit-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def check_ports(settings: Settings) -> None:
    """Raises UpError, with one line for each address that cannot be listened on."""
    if not settings.gateway.listen:
        raise UpError("gateway.listen is empty: give at least one address, for example 127.0.0.1:3128")
    wanted = [(address, ("gateway", "listen")) for address in settings.gateway.listen]
    wanted.append((settings.gateway.metrics_listen, ("gateway", "metrics_listen")))
    wanted.append((settings.control.listen, ("control", "listen")))
    wanted.append((settings.scorer.metrics_listen, ("scorer", "metrics_listen")))
    wanted.append((settings.collector.metrics_listen, ("collector", "metrics_listen")))
    faults = _faults([address for address, _ in wanted])
    if not faults:
        return
    chosen = _elsewhere([address for address, _ in wanted], faults)
    lines = []
    for index, fault in faults.items():
        address, key = wanted[index]
        value = ",".join(other for other, (_, its) in zip(chosen, wanted, strict=True) if its == key)
        lines.append(
            f"cannot listen on {address}: {fault}. Change {'.'.join(key)}, for example {variable(*key)}={value}"
        )
    raise UpError("\n".join(lines))


def _faults(addresses: Sequence[str]) -> dict[int, str]:
    """Why some of `addresses` cannot be listened on, by their place in the list."""
    found = {}
    for index, address in enumerate(addresses):
        fault = "it is configured twice" if address in addresses[:index] else ports.fault(address)
        if fault:
            found[index] = fault
    return found


def _elsewhere(addresses: Sequence[str], faults: Collection[int]) -> list[str]:
    """`addresses`, each one at fault with a free port that no other of them has."""
    chosen = list(addresses)
    for index in faults:
        host, port = ports.split(chosen[index])
        nearby = (join_listen(host, number) for number in range(port + 1, min(port + 1000, 65536)))
        chosen[index] = next((one for one in nearby if one not in chosen and not ports.fault(one)), f"{host}:0")
    return chosen
