"""What the lab changes in this machine's network, and how all of it is undone.

That is: a blackhole route, one nft table, Docker's forwarding switches, and an exception where another firewall refuses
to forward between the ports of a bridge.
"""

import json
from pathlib import Path

from deploy.lab import world
from deploy.lab.shell import LabError, has, run, succeeds

GUARD = "vxlab"
FORWARDING = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.forwarding")
BRIDGED = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
BLACKHOLE = ["blackhole", world.RANGE, "metric", "4000"]

# Nothing of the lab is forwarded anywhere else: what an exit sends past its tunnel ends here, after it was counted.
GUARD_RULES = f"""
table inet {GUARD} {{}}
delete table inet {GUARD}
table inet {GUARD} {{
  chain forward {{
    type filter hook forward priority -10;
    iifname "{world.UPLINK}" oifname != "{world.UPLINK}" counter drop
    oifname "{world.UPLINK}" iifname != "{world.UPLINK}" counter drop
    iifname "{world.WAN}" oifname != "{world.WAN}" counter drop
    oifname "{world.WAN}" iifname != "{world.WAN}" counter drop
  }}
}}
"""


def range_held() -> bool:
    """Whether packets for hosts of the lab that are gone stay on this machine already."""
    return "blackhole" in run(["ip", "-4", "route", "show", "exact", world.RANGE, "metric", "4000"])


def hold_range() -> None:
    if not range_held():
        run(["ip", "route", "add", *BLACKHOLE])


def release_range() -> None:
    if range_held():
        run(["ip", "route", "del", *BLACKHOLE])


def guard() -> None:
    """Keep the lab's bridges to themselves."""
    run(["nft", "-f", "-"], stdin=GUARD_RULES)


def unguard() -> None:
    # Adding before deleting makes deleting what is not there no error.
    run(["nft", "-f", "-"], stdin=f"table inet {GUARD} {{}}\ndelete table inet {GUARD}\n")


def remember_switches(path: Path) -> None:
    """Note how this machine forwards before Docker changes it; a note that is there already stays."""
    if not path.exists():
        path.write_text(
            json.dumps(
                {name: _switch(name).read_text().strip() for name in (*FORWARDING, *BRIDGED) if _switch(name).exists()}
            )
        )


def restore_switches(path: Path) -> None:
    if path.exists():
        for name, value in json.loads(path.read_text()).items():
            _switch(name).write_text(value)
        path.unlink()


def show_bridged_packets() -> None:
    """Let packets that pass between ports of a bridge be seen by `inet` tables (br_netfilter).

    Raises:
        LabError: the kernel has no br_netfilter, or this user may not switch it on.
    """
    for name in BRIDGED:
        try:
            if _switch(name).read_text().strip() != "1":
                _switch(name).write_text("1")
        except OSError as error:
            raise LabError(
                f"{name} cannot be switched on ({error.strerror}): run modprobe br_netfilter as root"
            ) from None


def allow_bridging() -> None:
    """Let frames pass between ports of the lab's bridges where a firewall that forwards nothing sees them too.

    Needed beside a Docker that set FORWARD to DROP (or left it so) once br_netfilter is on, and only there: without a
    filter table nothing is in the way, and none is made.
    """
    if _has_filter_table():
        for bridge in (world.UPLINK, world.WAN):
            if not succeeds(["iptables", "-C", *_exception(bridge)]):
                run(["iptables", "-I", *_exception(bridge)])


def disallow_bridging() -> None:
    if _has_filter_table():
        for bridge in (world.UPLINK, world.WAN):
            while succeeds(["iptables", "-D", *_exception(bridge)]):
                pass


def remove_bridges() -> None:
    """Delete what a Docker that ended badly left of the lab's bridges."""
    for bridge in (world.UPLINK, world.WAN):
        if succeeds(["ip", "link", "show", "dev", bridge]):
            run(["ip", "link", "delete", bridge])


def _exception(bridge: str) -> list[str]:
    return ["FORWARD", "-i", bridge, "-o", bridge, "-m", "comment", "--comment", GUARD, "-j", "ACCEPT"]


def _has_filter_table() -> bool:
    if not (has("iptables") and has("nft")):
        return False
    legacy = Path("/proc/net/ip_tables_names")
    try:
        if "filter" in legacy.read_text().split():
            return True
    except OSError:
        pass
    try:
        return "table ip filter" in run(["nft", "list", "tables"])
    except LabError:
        return False


def _switch(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))
