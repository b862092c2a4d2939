# SPDX-License-Identifier: Apache-2.0
"""`make test`: every test once, in two parts, and one closing line for both.

Guests, probes and loads are measured against the machine as it is: an emulated kernel starves beside a busy neighbour.
Their tests run one at a time with the machine to themselves, after all others, of which many wait for leases, commands
and each other: those have a worker more than there are CPUs. The exit code is 0 only if both parts pass and no test is
in neither: pytest says in the second part how many it left to the first.
"""

from __future__ import annotations

import compileall
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ALONE = "kernel or bcc or alone"
"""The marks (see pyproject.toml) of what runs with the machine to itself."""

WORKERS = min((os.cpu_count() or 1) + 1, 8)

_RAN = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")
_COUNT = re.compile(r"(\d+) ([a-z]+)")
_CLOSING = re.compile(r"^(?:=+ )?(?:(?:\d+ [a-z]+|no tests ran)(?:, | in )?)+[\d.]+s(?: \([\d:]+\))?(?: =+)?$")


@dataclass(frozen=True, slots=True)
class Part:
    """How one run of pytest ended: its exit code, how many of what, and its lines on each failure."""

    code: int
    counts: Counter[str]
    failures: tuple[str, ...]

    @property
    def ran(self) -> int:
        """How many tests it ran or skipped."""
        return sum(self.counts[name] for name in _RAN)


def run(arguments: Sequence[str]) -> Part:
    """Run pytest, its output shown as it comes."""
    command = [sys.executable, "-m", "pytest", *arguments]
    said = bytearray()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}) as process:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            said += chunk
            sys.stdout.buffer.write(chunk)
            sys.stdout.flush()
    return read(process.returncode, said.decode(errors="replace"))


def read(code: int, said: str) -> Part:
    """What a run of pytest that ended with `code` said at its end."""
    lines = said.splitlines()
    closing = next((line for line in reversed(lines) if _CLOSING.match(line)), "")
    # Plurals are for the eye: `1 error`, `2 errors`.
    counts = Counter({name.removesuffix("s"): int(n) for n, name in _COUNT.findall(closing.rpartition(" in ")[0])})
    return Part(code, counts, tuple(line for line in lines if line.startswith(("FAILED ", "ERROR "))))


def judge(first: Part, second: Part, seconds: float) -> tuple[int, list[str]]:
    """The exit code of both, and the lines to close with."""
    lines = [*first.failures, *second.failures]
    code = first.code or second.code
    left = second.counts["deselected"]
    if not code and first.ran != left:
        lines.append(f"the first part ran {first.ran} tests and the second left {left} to it: some were in neither")
        code = 1
    both = first.counts + second.counts
    told = [f"{both[name]} {name}" for name in _RAN if both[name]]
    lines.append(f"{', '.join(told) or 'no tests ran'} in {seconds:.2f}s ({seconds / 60:.0f} min)")
    return code, lines


def main() -> int:
    """Both parts. The second runs whatever the first found, unless that was stopped or could not begin."""
    began = time.monotonic()
    compileall.compile_dir(Path(__file__).parents[1] / "controller", quiet=2)  # tests start it hundreds of times
    print("► tests side by side", flush=True)
    first = run(("-m", f"not ({ALONE})", "-n", str(WORKERS), "--dist", "loadfile"))
    if first.code not in (0, 1):
        return first.code
    print(f"► tests that need the machine to themselves ({ALONE})", flush=True)
    second = run(("-m", ALONE))
    code, lines = judge(first, second, time.monotonic() - began)
    print("\n" + "\n".join(lines), flush=True)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
