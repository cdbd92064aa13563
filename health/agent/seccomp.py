"""A system-call filter for one purpose: wireguard-go sets its device's MTU at start and gives up where it may not.

Setting an MTU needs CAP_NET_ADMIN, with which a program could also open the kill switch. So the call is answered
with "done" and not carried out; PID 1 sets the MTU itself, and the program that reads from the Internet runs without
any capability.
"""

import ctypes
import os
import struct

_SIOCSIFMTU = 0x8922  # linux/sockios.h
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
_DONE = 0x00050000  # SECCOMP_RET_ERRNO with errno 0: the caller sees success
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
_NUMBER, _ARCH, _REQUEST = 0, 4, 24  # struct seccomp_data: nr, arch, the low half of args[1] (little-endian)

# AUDIT_ARCH_* (linux/audit.h) and the number of ioctl there.
_IOCTL = {"x86_64": (0xC000003E, 16), "aarch64": (0xC00000B7, 29)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def mtu_filter(machine: str) -> bytes:
    """The BPF program for `machine` (as `uname -m` says it). Raises ValueError for one that is not known."""
    if machine not in _IOCTL:
        raise ValueError(f"no system-call numbers known for {machine}")
    arch, ioctl = _IOCTL[machine]
    steps = (
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 0, 4, arch),
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 2, ioctl),
        (_LOAD, 0, 0, _REQUEST),
        (_EQUAL, 1, 0, _SIOCSIFMTU),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _DONE),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def apply(program: bytes) -> None:
    """Put this process and all it starts under `program`, for good. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    body = _Program(len(program) // 8, program)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(body), 0, 0
    ):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
