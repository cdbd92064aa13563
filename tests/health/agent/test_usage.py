"""CPU and memory as control groups tell it, from trees of files, and of this very process."""

import json
import os
import subprocess
import sys
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

# In namespaces of its own, where the kernel shows nothing but this process: what it says of a second of work.
WORKS = """
import json, pathlib, sys, time
from health.agent.usage import Usage
usage = Usage(pathlib.Path(sys.argv[1]))
usage.cpu_percent(began := time.monotonic())
worked = time.process_time()
while time.process_time() - worked < 0.5 or time.monotonic() - began < 1:
    pass
now, worked = time.monotonic(), time.process_time() - worked
told = (usage.cpu_percent(now) or 0) / 100 * (now - began)
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
print(json.dumps([told, worked, usage.memory_bytes(), pages]))
"""
IN_GROUP = """
set -e
mount -t cgroup2 none "$1/groups"
mkdir "$1/groups/$2"
trap 'rmdir "$1/groups/$2"' EXIT
ln -s "$1/groups/$2" "$1/sys/fs/cgroup"
sh -c 'echo 0 >"$1/sys/fs/cgroup/cgroup.procs" && exec "$2" -c "$3" "$1"' sh "$1" "$3" "$4"
"""


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


@pytest.mark.parametrize("group", [False, True], ids=["no control group", "version 2"])
def test_as_the_kernel_tells_it(tmp_path: Path, group: bool) -> None:
    (tmp_path / "proc").symlink_to("/proc")
    (tmp_path / "sys/fs").mkdir(parents=True)
    (tmp_path / "groups").mkdir()
    inside = [sys.executable, "-c", WORKS, str(tmp_path)]
    if group:
        inside = ["sh", "-c", IN_GROUP, "sh", str(tmp_path), f"vxtest{os.getpid()}", sys.executable, WORKS]
    done = subprocess.run(
        ["unshare", "-m", "-p", "-f", "--mount-proc", *inside],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told, worked, memory, pages = json.loads(done.stdout)
    assert told == pytest.approx(worked, abs=0.1)
    assert memory == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.2)
