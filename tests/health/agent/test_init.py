"""PID 1's loop, with shell commands in the place of the VPN program and the agent."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from health.agent import init, nodefile, spawn, tun
from health.agent.init import Init
from health.agent.program import Failure, Link
from health.agent.protocol import Ended
from health.agent.report import Report, read
from health.agent.wake import Wake
from tests.conftest import STALL_S
from tests.health.agent.test_nodefile import OPENVPN


def start(command: str, output: int, stdin: int = -3) -> int:
    return spawn.spawn(["sh", "-c", command], user=os.getuid(), group=os.getgid(), output=output, stdin=stdin)


class ShellProgram:
    """A VPN program that is a shell command; the test says how its link is."""

    def __init__(self, command: str = "exec sleep 60") -> None:
        self.link = Link(up=False, reason="starting")
        self.failure: Failure | None = None
        self.ticks = 0
        self.pid = 0
        self.farewells = 0
        self._command = command

    def start(self, _selector: object, output: int) -> int:
        self.pid = start(self._command, output)
        return self.pid

    def tick(self) -> None:
        self.ticks += 1

    def stop(self) -> bool:
        self.farewells += 1
        return False


class StubGuard:
    """A kill switch that the test takes away."""

    def __init__(self) -> None:
        self.whole = True
        self.loaded = 0
        self.reader, self.writer = os.pipe()

    def set(self) -> None:
        self.loaded += 1

    def take_away(self) -> None:
        self.whole = False
        os.write(self.writer, b"x")

    def fileno(self) -> int:
        return self.reader

    def drain(self) -> None:
        os.read(self.reader, 1)

    def close(self) -> None:
        os.close(self.reader)
        os.close(self.writer)

    def intact(self) -> bool:
        return self.whole


class Container:
    """One run of PID 1's loop in this process."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reports_file = directory / "reports"
        self.agent_command = f"exec cat > {self.reports_file}"
        self.agent_pid = 0
        self.grace = 10.0
        self.guard = StubGuard()
        self.wake = Wake()
        monkeypatch.setattr(tun, "DEVICE", "lo")
        monkeypatch.setattr(init, "_start_agent", self._start_agent)

    def _start_agent(self, output: int) -> tuple[int, int]:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writer, False)
        self.agent_pid = start(self.agent_command, output, reader)
        os.close(reader)
        self.pipe = writer
        return self.agent_pid, writer

    def run(self, program: ShellProgram, meanwhile: Callable[[], None] | None = None) -> Failure:
        node = nodefile.parse(json.dumps(OPENVPN))
        running = Init(node, program, self.guard, self.wake)  # type: ignore[arg-type]
        helper = threading.Thread(target=meanwhile or (lambda: None))
        helper.start()
        try:
            return running.run()
        finally:
            running.farewell()
            helper.join()
            os.close(self.pipe)
            _end(program.pid)
            # What was written is still to be read: the agent ends by itself when its reports do.
            _end(self.agent_pid, grace=self.grace)

    def reports(self) -> list[Report]:
        if not self.reports_file.exists():
            return []
        return [read(line) for line in self.reports_file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def wait_for(self, condition: Callable[[list[Report]], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition(self.reports()):
            assert time.monotonic() < deadline, self.reports()
            time.sleep(0.01)


@pytest.fixture
def container(namespaces: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Container]:
    made = Container(tmp_path, monkeypatch)
    yield made
    made.wake.close()
    made.guard.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize(
    ("command", "how"), [("exit 3", "with status 3"), ("exit 0", "with status 0"), ("kill -9 $$", "by signal 9")]
)
def test_it_ends_when_the_vpn_program_does(container: Container, command: str, how: str) -> None:
    ended = container.run(ShellProgram(command))
    assert (ended.ended, ended.reason) == (Ended.VPN_ENDED, f"the VPN program ended {how}")


def test_what_the_vpn_program_said_is_the_reason(container: Container) -> None:
    program = ShellProgram("exit 1")
    program.failure = Failure(Ended.AUTH_FAILED, "refused")
    assert container.run(program) is program.failure


def test_it_ends_when_the_agent_does(container: Container) -> None:
    container.agent_command = "exit 5"
    assert container.run(ShellProgram()).ended is Ended.AGENT_ENDED


def test_it_ends_when_the_agent_does_not_read(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "_TICK", 0.001)
    container.agent_command, container.grace = "exec sleep 60", 0
    ended = container.run(ShellProgram())
    assert (ended.ended, ended.reason) == (Ended.AGENT_ENDED, "the agent does not read")


def test_it_ends_when_asked_to(container: Container) -> None:
    program = ShellProgram()

    def stop() -> None:
        container.wait_for(lambda reports: len(reports) > 0)
        os.kill(os.getpid(), signal.SIGTERM)

    began = time.monotonic()
    ended = container.run(program, stop)
    assert ended.ended is Ended.STOPPED
    assert time.monotonic() - began < 2 + STALL_S
    assert program.farewells == 1


def test_it_ends_when_the_device_is_gone(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "_same_device", lambda _index: False)
    assert container.run(ShellProgram()).ended is Ended.TUNNEL_GONE


def test_it_ends_when_the_kill_switch_is_taken_away(container: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "_TICK", 30.0)

    def take_away() -> None:
        container.wait_for(lambda reports: len(reports) > 0)
        container.guard.take_away()

    began = time.monotonic()
    assert container.run(ShellProgram(), take_away).ended is Ended.KILL_SWITCH
    assert time.monotonic() - began < 10 + STALL_S
    container.wait_for(lambda reports: not reports[-1].kill_switch)
    assert container.guard.loaded == 1


def test_the_agent_is_told_every_second_and_of_every_change(container: Container) -> None:
    program = ShellProgram()

    def change() -> None:
        container.wait_for(lambda reports: len(reports) >= 2)
        program.link = Link(up=True, reason="", dns=("103.86.96.100",), handshake_age_s=1.5)
        container.wait_for(lambda reports: reports[-1].link)
        os.kill(os.getpid(), signal.SIGTERM)

    container.run(program, change)
    first, *_, last = container.reports()
    told = (("9.9.9.9:443", "198.18.0.80:80"), OPENVPN["insights_url"])
    assert first == Report("jp3f9a1c", "probe.test", False, "starting", (), True, None, *told)
    assert last == Report("jp3f9a1c", "probe.test", True, "", ("103.86.96.100",), True, 1.5, *told)
    assert program.ticks >= 2


def test_orphans_are_reaped(container: Container) -> None:
    program = ShellProgram("sleep 0.05 & exec sleep 0.3")
    assert container.run(program).ended is Ended.VPN_ENDED


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (nodefile.ConfigError("x"), Ended.CONFIG),
        (init.nft.KillSwitchError("x"), Ended.KILL_SWITCH),
        (init.routes.NetworkError("x"), Ended.NETWORK),
        (OSError("x"), Ended.NETWORK),
        (Failure(Ended.AUTH_FAILED, "x"), Ended.AUTH_FAILED),
    ],
)
def test_what_fails_before_has_a_status_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: Exception, ended: Ended
) -> None:
    def fail(_wake: object) -> Init:
        raise error

    monkeypatch.setattr(init, "_prepare", fail)
    monkeypatch.setattr(init, "Wake", lambda: None)
    monkeypatch.setattr(init.log, "never_wait", lambda: None)
    with pytest.raises(SystemExit) as caught:
        init.main()
    assert caught.value.code == int(ended)
    last = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert (last["event"], last["code"], last["reason"]) == ("ended", int(ended), "x")


def _end(pid: int, grace: float = 0.0) -> None:
    deadline = time.monotonic() + grace
    try:
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    except ChildProcessError:
        pass
