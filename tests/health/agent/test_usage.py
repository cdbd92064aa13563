"""CPU and memory as control groups tell it, from trees of files, and of this very process."""

import os
import time
from pathlib import Path

import pytest

from health.agent.usage import Usage

TWO = {
    "sys/fs/cgroup/memory.current": "5000000\n",
    "sys/fs/cgroup/memory.stat": "anon 3000000\nfile 2000000\ninactive_file 1000000\n",
    "sys/fs/cgroup/cpu.stat": "usage_usec 2000000\nuser_usec 1\n",
}
ONE = {
    "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000000\n",
    "sys/fs/cgroup/memory/memory.stat": "inactive_file 7\ntotal_inactive_file 1000000\n",
    "sys/fs/cgroup/cpuacct/cpuacct.usage": "2000000000\n",
}
PROCESSES = {
    "proc/1/stat": "1 (a) b) c) S 0 1 1 0 -1 4194560 1 1 1 1 150 50 0 0 20 0 1 0 1 1 1\n",
    "proc/1/statm": "900 500 1 1 0 1 0\n",
    "proc/22/stat": "22 (x) R 1 1 1 0 -1 4194560 1 1 1 1 0 0 0 0 20 0 1 0 1 1 1\n",
    "proc/22/statm": "9 5 1 1 0 1 0\n",
    "proc/self/stat": "not counted twice\n",
}
MORE_CPU = {
    "sys/fs/cgroup/cpu.stat": "usage_usec 2500000\n",
    "sys/fs/cgroup/cpuacct/cpuacct.usage": "2500000000\n",
    "proc/22/stat": f"22 (x) R 1 1 1 0 -1 4194560 1 1 1 1 0 {os.sysconf('SC_CLK_TCK') // 2} 0 0 20 0 1 0 1 1 1\n",
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "memory"), [(TWO, 4_000_000), (ONE, 4_000_000), (PROCESSES, 505 * os.sysconf("SC_PAGE_SIZE"))]
)
def test_half_a_core_for_a_second(tmp_path: Path, files: dict[str, str], memory: int) -> None:
    write(tmp_path, files)
    usage = Usage(tmp_path)
    assert usage.memory_bytes() == memory
    assert usage.cpu_percent(100.0) is None
    write(tmp_path, {name: text for name, text in MORE_CPU.items() if name in files})
    assert usage.cpu_percent(100.5) is None, "too short a time to say"
    assert usage.cpu_percent(101.0) == 50
    assert usage.cpu_percent(101.1) == 50, "whoever asks in between hears the same"
    assert usage.cpu_percent(102.0) == 0


@pytest.mark.parametrize("text", ["", "max\n", "-1\n", "usage_usec many\n"])
def test_what_cannot_be_read_is_unknown(tmp_path: Path, text: str) -> None:
    write(tmp_path, dict.fromkeys(TWO, text))
    usage = Usage(tmp_path)
    assert [usage.cpu_percent(float(second)) for second in range(3)] == [None, None, None]
    assert usage.memory_bytes() is None


def test_on_this_machine() -> None:
    usage = Usage()
    usage.cpu_percent(time.monotonic() - 1)
    percent, memory = usage.cpu_percent(time.monotonic()), usage.memory_bytes()
    assert percent is not None
    assert percent >= 0
    assert memory is not None
    assert memory > 1 << 20
