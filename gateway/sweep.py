"""What is done for open tunnels now and then, so that no byte has to pay for it: idle and total time-outs, TCP options
that only long tunnels need, and users' monthly bytes, those of plain HTTP and UDP, too.
"""

import socket

import structlog

from gateway.relay import Tunnel
from gateway.session import Session
from gateway.worker import Worker
from health.reasons import Reason

log = structlog.get_logger()

PERIOD_S = 5.0
_AT_ONCE = 500  # tunnels looked at before the others get their turn

# A peer that vanished is given up after five minutes, and so is one that does not read for so long: the kernel cannot
# tell a stopped reader from a dead one that once closed its window (tcp(7), TCP_USER_TIMEOUT).
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 6),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 300_000),
)


class Sweep:
    """Looks at every tunnel of a worker once in a period, a few hundred at a time."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._loop = worker.poller.loop
        self._handle = self._loop.call_later(PERIOD_S, self._begin)

    def close(self) -> None:
        """Look no more."""
        self._handle.cancel()

    def _begin(self) -> None:
        self._look([s for s in self._worker.sessions if s.tunnel_of is not None or s.traffic is not None], 0)

    def _look(self, sessions: list[Session], start: int) -> None:
        end = start + _AT_ONCE
        now = self._loop.time()
        for session in sessions[start:end]:
            try:
                self._look_at(session, now)
            except Exception:  # one that cannot be looked at must not keep the others from it
                log.exception("connection could not be looked at", conn_id=session.conn_id)
        if end < len(sessions):
            self._handle = self._loop.call_soon(self._look, sessions, end)  # type: ignore[assignment]
        else:
            self._handle = self._loop.call_later(PERIOD_S, self._begin)

    def _look_at(self, session: Session, now: float) -> None:
        tunnel, traffic = session.tunnel_of, session.traffic
        if tunnel is not None:
            self._look_at_tunnel(session, tunnel, now)
        elif traffic is not None:
            session.settle(traffic.passed)
            if session.grant is not None and session.grant.exhausted:
                traffic.end(Reason.QUOTA_USED)

    def _look_at_tunnel(self, session: Session, tunnel: Tunnel, now: float) -> None:
        settings, passed = self._worker.settings, tunnel.passed
        if not tunnel.seen_at:
            for sock in (tunnel.up.source, tunnel.down.source):
                for level, option, value in KEEPALIVE:
                    sock.setsockopt(level, option, value)
        if passed != tunnel.seen or not tunnel.seen_at:
            tunnel.seen, tunnel.seen_at = passed, now
            session.settle(passed)
        elif now - tunnel.seen_at > settings.idle_timeout:
            tunnel.end(Reason.IDLE_TIMEOUT)
            return
        if now - session.started > settings.max_lifetime:
            tunnel.end(Reason.LIFETIME)
        elif session.grant is not None and session.grant.exhausted:
            tunnel.abort(Reason.QUOTA_USED)
