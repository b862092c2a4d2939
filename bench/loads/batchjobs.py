# SPDX-License-Identifier: Apache-2.0
"""Eight batches of jobs of real programs, each with one job several times as long as the others.

A job is one process of one program, so that its CPU time is also the least time in which it can end. What it works on
is made beforehand in the guest's memory, and is all zeros, numbers or drawn from a fixed seed: equal sizes are equal
work. A size is a number of lines, files, samples or KiB, of which the CPU time is a straight line; `Fit` finds it from
two jobs run alone.
"""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

JOBS_PER_CPU = 5
SHORT, LONG = "short", "long"
FOLDER = "/tmp/schedctl-batch"  # noqa: S108 - in the guest, whose /tmp is its own memory

_KEYS = r"""srand 7; for (1 .. shift) { printf "key%05d\n", 4999 * rand() ** 3 }"""
_TOP = r"""$n{$_}++;
END { @k = sort { $n{$b} <=> $n{$a} || $a cmp $b } keys %n; print map { "$n{$_} $_" } @k[0 .. 9] }"""
_LOG = r"""srand 7; $f = qq(10.0.%d.%d - - [24/Nov/2026:10:%02d:%02d] "GET /item/%d HTTP/1.1" %d %d\n);
for (1 .. shift) { printf $f, rand 8, rand 250, $_ / 60 % 60, $_ % 60, 300 * rand() ** 2,
(200, 200, 200, 304, 404, 500)[rand 6], 9000 * rand }"""
_REPORT = r"""$8 >= 500 { bad[$6]++ } { sent[$1] += $9 } /item\/1[0-9]* / { hits++ }
END { for (i in bad) print i, bad[i]; for (i in sent) print i, sent[i]; print hits }"""
_SOUND = r"""srand 7; $n = shift; $b .= pack "s<", 9000 * sin($_ / 9) + 3000 * sin($_ / 31) + rand 400 for 0 .. 44099;
print substr $b x (1 + $n / 44100), 0, 2 * $n"""
_RAW = "--force-raw-format --endian=little --sign=signed --channels=1 --bps=16 --sample-rate=44100"
_TREE = r"""$f = shift; mkdir $f; for $i (1 .. shift) { $d = "$f/" . int($i / 50); mkdir $d; open O, ">", "$d/$i.c";
print O map { "int f_${i}_$_(int x) { return x * $_ + $i; }\n" } 1 .. 40; close O }"""
_REPOSITORY = r"""mkdir -p JOB/objects JOB/refs; echo ref: refs/heads/main > JOB/HEAD
printf '[core]\n\tbare = false\n\tpreloadIndex = false\n' > JOB/config"""


@dataclass(frozen=True, slots=True)
class Workload:
    """One batch. In `make` and `before` (shell) and `argv`, INPUT is what a short or long job works on, SIZE its size,
    and JOB a folder for this job alone. `probes` are the sizes run to learn what one costs; inputs are no larger than
    `most` (so that they fit into the guest's memory). `times` is how much longer the long job is."""

    name: str
    times: int
    make: str
    argv: tuple[str, ...]
    probes: tuple[int, int]
    most: int
    before: str = ""
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """The programs that are not on this machine."""
        return [tool for tool in (self.argv[0], *self.needs) if shutil.which(tool) is None]

    def script(self, size: int) -> str:
        """The shell script that makes the input of that size, unless it is there."""
        path = self._input(size)
        return f"[ -e {path} ] || {{ {self.make.replace('INPUT', path).replace('SIZE', str(size))}; }}"

    def job(self, group: str, size: int, number: int = 0) -> dict[str, object]:
        """The job as bench/loads/batchrunner.py takes it."""
        path, folder = self._input(size), f"{FOLDER}/job{number}"
        argv, before = ([part.replace("INPUT", path).replace("JOB", folder) for part in parts]
                        for parts in (self.argv, [self.before]))  # fmt: skip
        return {"group": group, "argv": argv, "before": before[0]}

    def batch(self, cpus: int, sizes: tuple[int, int], chance: random.Random) -> list[dict[str, object]]:
        """All jobs, in the order in which they are launched: the long one is anywhere in it."""
        groups = [LONG] + [SHORT] * (JOBS_PER_CPU * cpus - 1)
        chance.shuffle(groups)
        return [self.job(group, sizes[group == LONG], number) for number, group in enumerate(groups)]

    def _input(self, size: int) -> str:
        return f"{FOLDER}/{self.name}.{size}"


WORKLOADS = (
    Workload("compression", 7, "seq 1 SIZE > INPUT", ("gzip", "-c", "INPUT"), (10_000, 160_000), 20_000_000),
    Workload(
        "transcode", 6, f"perl -e '{_SOUND}' SIZE | flac -s -0 {_RAW} -f -o INPUT -",
        ("flac", "--totally-silent", "-8", "-c", "INPUT"), (40_000, 640_000), 60_000_000, needs=("perl",),
    ),
    Workload(
        "arithmetic", 6, "echo SIZE > INPUT",
        ("awk", "{ for (i = 0; i < $1; i++) s += sin(i) * cos(i); print s }", "INPUT"), (20_000, 320_000), 900_000_000,
    ),
    Workload(
        "git-add", 5, f"perl -e '{_TREE}' INPUT SIZE", ("git", "--git-dir=JOB", "--work-tree=INPUT", "add", "--all"),
        (40, 480), 40_000, before=_REPOSITORY, needs=("perl",),
    ),
    Workload("checksum", 5, "truncate -s SIZEK INPUT", ("sha256sum", "INPUT"), (2_000, 32_000), 8_000_000),
    Workload(
        "hot-key", 8, f"perl -e '{_KEYS}' SIZE > INPUT", ("perl", "-ne", _TOP, "INPUT"), (20_000, 320_000), 20_000_000,
    ),
    Workload(
        "log-analysis", 7, f"perl -e '{_LOG}' SIZE > INPUT", ("awk", _REPORT, "INPUT"), (4_000, 64_000), 4_000_000,
        needs=("perl",),
    ),
    Workload(
        "join", 9,
        "mkdir INPUT; seq -f '%09.0f left' 1 SIZE > INPUT/left; seq -f '%09.0f right' 1 3 SIZE > INPUT/right",
        ("join", "INPUT/left", "INPUT/right"), (30_000, 480_000), 12_000_000,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fit:
    """CPU time = `start_s` + `each_s` x size."""

    start_s: float
    each_s: float

    @classmethod
    def of(cls, sizes: Sequence[int], seconds: Sequence[float]) -> Fit:
        """The line through two points, the second much larger. On a busy machine they may lie anyhow: at least half of
        the second one's time is for its size, and a start is never negative."""
        each = max((seconds[1] - seconds[0]) / (sizes[1] - sizes[0]), seconds[1] / sizes[1] / 2)
        return cls(max(min(seconds[0] - each * sizes[0], seconds[1] - each * sizes[1]), 0.0), each)

    def sizes(self, short_s: float, times: int, most: int) -> tuple[int, int]:
        """Of a short job of `short_s` CPU seconds and of one `times` as long; both are less when `most` is less."""
        short_s = max(short_s, 2 * self.start_s)
        long = max(2, math.floor((times * short_s - self.start_s) / self.each_s))
        if long > most:
            long = most
            short_s = (self.start_s + self.each_s * most) / times
        return max(1, math.floor((short_s - self.start_s) / self.each_s)), long


def short_seconds(makespan_s: float, times: int) -> float:
    """CPU time of a short job with which fair sharing takes `makespan_s`: n short ones and the long one share the CPUs
    until the short ones end, together; then the long one does the rest alone."""
    return makespan_s / (JOBS_PER_CPU + times - 1)


def lowest(cpu_ns: Sequence[int], cpus: int) -> float:
    """The lowest makespan that any scheduler could reach with jobs of so much CPU time each, in nanoseconds: all CPUs
    always busy, and no job ends before it has had its own."""
    return max(sum(cpu_ns) / cpus, max(cpu_ns))
