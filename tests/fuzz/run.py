"""`make fuzz`: every parser under atheris for some seconds, as many at once as there are cores.

What was found interesting stays in .fuzz/ for the next time; an input that breaks a rule goes to tests/fuzz/crashes/,
where test_fuzz.py reads it: commit it with the repair.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.targets import PARSERS, WHOLE

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CRASHES = HERE / "crashes"  # not there as long as nothing was found
MAX_LEN = 4096  # bytes
SLACK_S = 60


def main() -> None:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="PARSER", help=f"{', '.join(PARSERS)}; all of them by default")
    parser.add_argument("--seconds", type=int, default=30, help="for each parser (default: %(default)s)")
    parser.add_argument("--corpus", type=Path, default=ROOT / ".fuzz", help="where inputs are kept")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(PARSERS):
        parser.error(f"no parser {', '.join(sorted(unknown))}: there are {', '.join(PARSERS)}")
    if find_spec("atheris") is None:
        sys.exit("atheris is missing: it has wheels for CPython 3.11 to 3.13 on x86-64 Linux")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(lambda name: fuzz(name, asked.seconds, asked.corpus), asked.names or PARSERS)
        sys.exit(0 if all(list(results)) else 1)


def fuzz(name: str, seconds: int, corpus: Path) -> bool:
    """Run one parser and say how it went; whether it held."""
    inputs, broken = corpus / name, corpus / "broken" / name
    write_seeds(name, inputs)
    broken.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-max_len={MAX_LEN}", "-timeout=10", "-print_final_stats=1"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.one", name, *options, f"-artifact_prefix={broken}/", str(inputs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + SLACK_S,
        check=False,
    )
    said = done.stdout + done.stderr
    print(f"{name:16} {summary(said)}{'  BROKEN, see below' if done.returncode else ''}", flush=True)
    if done.returncode:
        print("\n".join(said.splitlines()[-40:]), file=sys.stderr)
        keep(broken, CRASHES / name)
    return done.returncode == 0


def keep(found: Path, where: Path) -> None:
    """Move the inputs that broke a rule to where the tests read them."""
    where.mkdir(parents=True, exist_ok=True)
    for path in found.iterdir():
        shutil.move(path, where / path.name)


def write_seeds(name: str, inputs: Path) -> None:
    inputs.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(PARSERS[name].seeds):
        (inputs / f"seed-{number}").write_bytes(WHOLE + seed)


def summary(said: str) -> str:
    runs = re.search(r"number_of_executed_units: (\d+)", said)
    covered = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", said)
    edges, features, kept = covered[-1] if covered else ("?", "?", "?")
    return f"{runs[1] if runs else '?':>9} inputs, {edges:>4} edges, {features:>5} features, {kept:>4} kept"


if __name__ == "__main__":
    main()
