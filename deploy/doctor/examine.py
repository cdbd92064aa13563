"""All checks that make sense for a configuration, side by side, in the order in which they are shown."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from control.config import join_listen
from deploy.config import Settings
from deploy.doctor import balancer, clock, credentials, descriptors, engine, folder, kernel, listeners, state, store
from deploy.doctor.model import Check, Finding, Looked, Skipped
from deploy.ports import reachable
from health.config import RedisSettings

SIDE_BY_SIDE = 8
CLOCK_TIMEOUT_S = 3.0
_FOR_EXITS = ("docker", "live-restore", "image", "network", "tun", "nftables", "conntrack", "credentials")


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined. `embedded`: a `vpnexit up` holds its state directory."""

    settings: Settings
    online: bool = False
    embedded: bool = False


def examine(subject: Subject) -> list[Finding]:
    """Run every check; each bounds its own time."""
    wanted = checks(subject)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return [finding for found in pool.map(lambda check: check.run(), wanted) for finding in found]


def checks(subject: Subject) -> Sequence[Looked]:
    settings = subject.settings
    redis, online = _redis(subject), subject.online
    return [
        Check("kernel", kernel.look_kernel, kernel.judge_kernel),
        Check("descriptors", descriptors.look, descriptors.judge),
        *_for_exits(subject),
        Check("redis", lambda: store.look(redis, subject.embedded), store.judge),
        Check("haproxy", balancer.look, balancer.judge),
        Check("state directory", lambda: state.look(settings.state_dir), state.judge),
        Check("ports", lambda: listeners.look(settings), listeners.judge),
        Check("clock", lambda: clock.look(_clock_url(settings, online), CLOCK_TIMEOUT_S), clock.judge),
    ]


def _for_exits(subject: Subject) -> list[Looked]:
    settings = subject.settings
    control = settings.control
    if subject.embedded or control.engine == "none":
        why = "not needed: `vpnexit up` runs no VPN exits" if subject.embedded else "not needed: control.engine is none"
        return [Skipped(name, why) for name in _FOR_EXITS]
    return [
        Check(
            "docker",
            lambda: engine.look(control.docker_host, control.docker_timeout, control.image, control.network),
            engine.judge,
        ),
        Check("tun", kernel.look_tun, kernel.judge_tun),
        Check("nftables", kernel.look_nftables, kernel.judge_nftables),
        Check("conntrack", kernel.look_conntrack, kernel.judge_conntrack),
        *_providers(settings, subject.online),
    ]


def _providers(settings: Settings, online: bool) -> list[Looked]:
    nordvpn, directory = settings.nordvpn, settings.custom.directory
    found: list[Looked] = []
    if directory is not None:
        found.append(Check(folder.NAME, lambda: folder.look(directory), folder.judge))
    if nordvpn.accounts or directory is None:
        found.append(Check("credentials", lambda: credentials.look(nordvpn, online), credentials.judge))
    return found


def runs_embedded(state_dir: Path) -> bool:
    """Whether a `vpnexit up` holds this state directory."""
    try:
        # Taking its lock to see whether it is held could get in the way of an `up` that starts at this very moment.
        holder = (state_dir / "up.lock").read_text()
        return holder.isdigit() and b"up" in Path("/proc", holder, "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _redis(subject: Subject) -> RedisSettings:
    """The one that is used: `up` has its own, except where it was told of another, which it does not write down."""
    private = subject.settings.state_dir / "redis.sock"
    if subject.embedded and private.is_socket():
        return RedisSettings(url=f"unix://{private}", timeout=subject.settings.redis.timeout)
    return subject.settings.redis


def _clock_url(settings: Settings, online: bool) -> str:
    if online:
        return settings.nordvpn.api_url
    return f"http://{join_listen(*reachable(settings.control.listen))}/api/health"
