"""The tunnel device, made by PID 1 so that the VPN program needs no capability."""

import fcntl
import os
import struct

DEVICE = "tun0"
_CLONE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_TUNSETPERSIST = 0x400454CB
_TUNSETOWNER = 0x400454CC
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000


def create(flags: int = 0) -> int:
    """Make the device and return its descriptor; it lives as long as that is open. Raises OSError.

    Without flags every packet has the kernel's four bytes of packet information before it, as the wireguard-go of
    Debian 12 wants them (it learns of nothing else on a descriptor that it is given).
    """
    descriptor = os.open(_CLONE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), _IFF_TUN | flags))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def create_for(uid: int) -> None:
    """Make the device so that programs of user `uid` may attach to it without a capability. Raises OSError."""
    # Docker makes the node with the host's mode, often 0600; attaching is still the device owner's right alone.
    os.chmod(_CLONE, 0o666)  # noqa: S103
    descriptor = create(_IFF_NO_PI)
    try:
        fcntl.ioctl(descriptor, _TUNSETOWNER, uid)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    finally:
        os.close(descriptor)
