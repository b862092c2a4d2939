# SPDX-License-Identifier: Apache-2.0
"""What schedctl calls real programs, against what an expert would: a confusion table.

Each program runs in a cgroup of its own, is traced for one window and classified. The class an expert would give it is
written below, with the reason, and was written before the program was run. The thresholds of
controller/observe/classify.py were last set when what `KNOWN` do had been seen; the programs in `FRESH` were chosen,
given their classes and run after that, and no threshold was changed since: they say how it does with what it was not
fitted to. A program that moves a threshold moves to KNOWN. Programs that are not installed are named and left out.
Needs root, bcc and the programs; the table goes to stderr, JSON to stdout and to bench/results/.

    python bench/classify.py --seconds 3
    python bench/classify.py --only gzip --only redis-busy
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from loads import Program, conditions, other_load, running

from controller.api.base import now
from controller.observe import Probes, profile
from controller.observe.classify import classify

RESULTS = Path(__file__).parent / "results" / "classify.json"
KINDS = ("latency", "throughput", "batch", "background")

TEXT = (
    "python3 -c \"import random;random.seed(1);print('\\n'.join(str(random.random()) for _ in range(1500000)))\" > text"
)
WAVE = (
    "python3 -c \"import wave,os;w=wave.open('sound.wav','wb');w.setparams((2,2,44100,0,'NONE',''));"
    'w.writeframes(os.urandom(44100*4*60));w.close()"'
)
SOURCE = (
    'python3 -c "\n'
    "print('#include <stdio.h>\\n#include <stdlib.h>\\n#include <string.h>')\n"
    "for i in range(100): print(f'int f{i}(int x)'+'{int s=0;for(int i=0;i<x;i++)s+=i*%d^s;return s+(s<<3);}' % i)\n"
    '" > part.c; for i in 1 2 3 4 5 6 7 8; do cp part.c part$i.c; done'
)
WEB = "python3 -m http.server --bind 127.0.0.1 8765"
WEB_CLIENT = """python3 -c '
import time, urllib.request
while True:
    urllib.request.urlopen("http://127.0.0.1:8765/page").read(); time.sleep(0.01)'"""
AUDIO = """python3 -c '
import time
at = time.monotonic()
while True:
    at += 0.0107; time.sleep(max(at - time.monotonic(), 0))
    sum(i * i for i in range(4000))'"""
CRON = "while :; do sleep 1; ls /etc > /dev/null; done"
INSERTS = """python3 -c '
import sqlite3
db = sqlite3.connect("rows.db"); db.execute("create table if not exists t(a, b)")
while True:
    db.execute("insert into t values (1, 2)"); db.commit()'"""
QUERY = (
    "while :; do sqlite3 :memory: 'with recursive n(x) as (select 1 union all select x+1 from n limit 9000000) "
    "select sum(x*x) from n'; done"
)

# (program, the class, why)
KNOWN: tuple[tuple[Program, str, str], ...] = (
    (Program("compile", "while :; do printf '%s\\n' part*.c | xargs -P 2 -n 1 gcc -O2 -c -o /dev/null; done",
             needs=("gcc",), prepare=SOURCE), "batch", "who builds waits for the end of the build, not for a file"),
    (Program("gzip", "while :; do gzip -c text > /dev/null; done", needs=("gzip",), prepare=TEXT),
     "batch", "pure computation on a file in memory: only the end counts"),
    (Program("xz", "while :; do xz -T2 -3 -c text > /dev/null; done", needs=("xz",), prepare=TEXT),
     "batch", "pure computation in two threads: only the end counts"),
    (Program("flac", "while :; do flac --silent -8 -f -o out.flac sound.wav; done", needs=("flac",), prepare=WAVE),
     "batch", "encoding a file, not a stream: only the end counts"),
    (Program("sha256sum", "while :; do sha256sum text text text text; done", needs=("sha256sum",), prepare=TEXT),
     "batch", "pure computation on a file in memory"),
    (Program("sort", "while :; do sort text > /dev/null; done", needs=("sort",), prepare=TEXT),
     "batch", "nothing comes out before all is in"),
    (Program("sqlite-query", QUERY, needs=("sqlite3",)), "batch", "one long query without input: computation"),
    (Program("find", "while :; do find /usr -type f -size +1M > /dev/null; done", needs=("find",)),
     "batch", "over directories in memory it computes; who starts it waits for the last line"),
    (Program("sqlite-inserts", INSERTS, needs=("python3",)),
     "throughput", "transactions a second, each waiting for the disk"),
    (Program("hackbench", "while :; do hackbench --pipe -g 2 -f 5 -l 2000; done", needs=("hackbench",)),
     "throughput", "messages a second between tasks that do nothing else"),
    (Program("pipeline", "while :; do cat text | tr 0-4 5-9 | cksum > /dev/null; done", needs=("tr", "cksum"),
             prepare=TEXT), "throughput", "bytes a second through stages that wait for one another"),
    (Program("redis-busy", "redis-server --port 7654 --save '' --appendonly no", needs=("redis-server",),
             peer="while :; do redis-benchmark -p 7654 -c 50 -n 100000 -t get,set -q; done"),
     "throughput", "a server with more clients than it can serve at once: requests a second"),
    (Program("nginx-busy", "nginx -c $PWD/nginx.conf -g 'daemon off;'", needs=("nginx", "ab"),
             prepare="mkdir -p tmp; printf 'error_log /dev/null; pid nginx.pid; worker_processes 1; events {} "
                     "http {access_log off; client_body_temp_path tmp; server {listen 127.0.0.1:8766; "
                     "location / {return 200 ok;}}}' > nginx.conf",
             peer="while :; do ab -q -c 20 -n 50000 http://127.0.0.1:8766/; done"),
     "throughput", "a web server at its limit: requests a second"),
    (Program("redis-calm", "redis-server --port 7655 --save '' --appendonly no", needs=("redis-server", "redis-cli"),
             peer="redis-cli -p 7655 -r 100000 -i 0.005 get a"),
     "latency", "200 requests a second at low load: each client waits for its answer"),
    (Program("web", WEB, needs=("python3",), prepare="echo hello > page", peer=WEB_CLIENT),
     "latency", "somebody looks at the browser"),
    (Program("cyclictest", "cyclictest -q -i 1000 -t 2 --policy other", needs=("cyclictest",)),
     "latency", "it measures nothing but how late it wakes"),
    (Program("audio", AUDIO, needs=("python3",)), "latency", "a buffer of 10.7 ms that must be filled in time"),
    (Program("cron", CRON, needs=("ls",)), "background", "a small job each second that nobody waits for"),
    (Program("tail", "touch log; tail ---disable-inotify -F log", needs=("tail",)),
     "background", "it looks once a second, at nothing"),
    (Program("dd-sync", "while :; do dd if=/dev/zero of=out bs=64k count=2000 oflag=dsync; done", needs=("dd",)),
     "throughput", "bytes a second to a disk, waiting for it at each block"),
    (Program("tar", "while :; do tar cf - /usr/share/doc | cat > /dev/null; done", needs=("tar",)),
     "throughput", "files a second through a pipe, reader and writer waiting for one another"),
)  # fmt: skip

NODE = 'node -e \'require("http").createServer((q, a) => a.end("ok")).listen({port}, "127.0.0.1")\''
GAME = """python3 -c '
import time
at = time.monotonic()
while True:
    at += 1 / 60; time.sleep(max(at - time.monotonic(), 0))
    end = time.monotonic() + 0.003
    while time.monotonic() < end: pass'"""
_PG = "PATH=$PATH:$(echo /usr/lib/postgresql/*/bin); cd /; "
_PG_CLIENT = _PG + "until pgbench -h 127.0.0.1 -p {port} -U nobody -i -q postgres; do sleep 0.1; done; "
_PG_AS = "setpriv --reuid=65534 --regid=65534 --clear-groups "


def _postgres(name: str, port: int, load: str) -> Program:
    """PostgreSQL, which does not run as root, with clients that only read."""
    return Program(
        name,
        f"{_PG} exec {_PG_AS} postgres -D $OLDPWD/pg -p {port} -h 127.0.0.1 -k $OLDPWD/pg",
        needs=("setpriv", "postgres"),
        prepare=f"chmod 755 .; mkdir pg; chown 65534 pg; here=$PWD; {_PG} {_PG_AS} initdb -A trust -D $here/pg -N",
        peer=_PG_CLIENT.format(port=port)
        + f"exec pgbench -h 127.0.0.1 -p {port} -U nobody -S -n -T 3600 {load} postgres",
        settle_s=4.0,
    )


FRESH: tuple[tuple[Program, str, str], ...] = (
    (Program("bzip2", "while :; do bzip2 -c text > /dev/null; done", needs=("bzip2",), prepare=TEXT),
     "batch", "pure computation on a file in memory"),
    (Program("openssl", "while :; do openssl speed -seconds 1 -multi 2 sha512; done", needs=("openssl",)),
     "batch", "pure computation in two processes"),
    (Program("lame", "while :; do lame --quiet sound.wav out.mp3; done", needs=("lame",), prepare=WAVE),
     "batch", "encoding a file, not a stream: only the end counts"),
    (Program("clang", "while :; do clang-19 -O2 -c -o /dev/null part.c; done", needs=("clang-19",), prepare=SOURCE),
     "batch", "who compiles waits for the end"),
    (Program("awk", "while :; do awk '{s += $1} END {print s}' text > /dev/null; done", needs=("awk",), prepare=TEXT),
     "batch", "nothing comes out before all is in"),
    (Program("git-repack", "while :; do git -C repo repack -q -a -d -f; done", needs=("git",),
             prepare="git init -q repo; cp -rL /usr/share/perl/5.* repo/; git -C repo add -A; "
                     "git -C repo -c user.name=a -c user.email=a@example.org commit -q -m a"),
     "batch", "compresses what is in memory: only the end counts"),
    (Program("perf-messaging", "while :; do perf bench sched messaging -t -g 2 -l 2000; done", needs=("perf",)),
     "throughput", "messages a second between threads that do nothing else"),
    (Program("lz4-stream", "while :; do cat text | lz4 -c | lz4 -dc > /dev/null; done", needs=("lz4",), prepare=TEXT),
     "throughput", "bytes a second through stages that wait for one another"),
    (Program("stress-pipe", "stress-ng --quiet --pipe 1 --timeout 0", needs=("stress-ng",)),
     "throughput", "bytes a second from one end of a pipe to the other"),
    (Program("node-busy", NODE.format(port=8768), needs=("node", "ab"),
             peer="while :; do ab -q -k -c 20 -n 50000 http://127.0.0.1:8768/; done"),
     "throughput", "a server with more clients than it can serve at once: requests a second"),
    (_postgres("postgres-busy", 7657, "-c 16 -j 2"),
     "throughput", "a database with more clients than it can serve at once: transactions a second"),
    (_postgres("postgres-calm", 7658, "-c 2 -R 100"),
     "latency", "100 queries a second at low load: each client waits for its answer"),
    (Program("node-calm", NODE.format(port=8769), needs=("node", "curl"),
             peer="while :; do curl -s http://127.0.0.1:8769/; sleep 0.02; done"),
     "latency", "somebody waits for each answer"),
    (Program("game", GAME, needs=("python3",)), "latency", "a frame each 16.7 ms, and 3 ms of work for it"),
    (Program("vmstat", "vmstat 1 > /dev/null", needs=("vmstat",)), "background", "looks once a second"),
    (Program("watch", "TERM=xterm script -qc 'watch -n 1 uptime' /dev/null > /dev/null", needs=("script", "watch")),
     "background", "shows a clock that changes once a second"),
    (Program("redis-idle", "redis-server --port 7656 --save '' --appendonly no", needs=("redis-server",)),
     "background", "no client: its timer fires ten times a second"),
)  # fmt: skip


def main() -> None:
    """Run each program and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3, help="length of a window")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="this program alone; no results kept"
    )
    arguments = parser.parse_args()
    rows, missing = [], {}
    before = other_load()
    probes = Probes()
    try:
        for program, expected, why in KNOWN + FRESH:
            if arguments.only and program.name not in arguments.only:
                continue
            if lacking := program.missing():
                missing[program.name] = lacking
                print(f"{program.name}: not here: {', '.join(lacking)}", file=sys.stderr)
                continue
            rows.append(observed(program, expected, why, arguments.seconds, probes))
            show(rows[-1])
    finally:
        probes.close()
    table = confusion(rows)
    print_confusion(table)
    result = {
        "benchmark": "classify", "measured": now().isoformat(), "kernel": os.uname().release, "cpus": os.cpu_count(),
        "seconds": arguments.seconds, "conditions": conditions(before, other_load()), "programs": rows,
        "not_installed": missing, "confusion": table,
        "known": score([row for row in rows if not row["fresh"]]),
        "fresh": score([row for row in rows if row["fresh"]]),
    }  # fmt: skip
    if not arguments.only:
        RESULTS.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1, ensure_ascii=False))


def score(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many are classified as the expert does, and of how many; said on stderr."""
    right = sum(row["expected"] == row["kind"] for row in rows)
    if rows:
        whose = "thresholds were set after" if rows[0]["fresh"] is False else "no threshold was set after"
        print(f"{right} of {len(rows)} as the expert, of those that {whose} seeing them", file=sys.stderr)
    return {"agreed": right, "of": len(rows)}


def observed(program: Program, expected: str, why: str, seconds: float, probes: Probes) -> dict[str, Any]:
    """One program's row. SystemExit when it did not run: a figure of nothing is none."""
    with tempfile.TemporaryDirectory(prefix="schedctl-bench-") as folder, running(program, Path(folder)) as name:
        seen = profile(seconds, probes=probes)
    stats = seen.workload(name)
    if stats is None:
        raise SystemExit(f"{program.name} did not run; try its command by hand: {program.command}")
    if seen.observer != "bcc":
        raise SystemExit(f"this needs bcc: {seen.degraded}")
    found = classify(stats, seen.window_ns, seen.topology.cpus)
    return {
        "name": program.name, "fresh": any(program is each for each, _, _ in FRESH),
        "expected": expected, "why": why, "kind": found.kind, "confidence": found.confidence,
        "because": list(found.because), "cpus_used": round(stats.cpu_ns / seen.window_ns, 4),
        "wakeups_per_s": round((stats.wakeups or 0) / seen.window_ns * 1e9, 1),
        "turn_us": round(stats.cpu_ns / max(stats.voluntary_switches or 0, 1) / 1000, 1), "tasks": stats.tasks,
    }  # fmt: skip


def show(row: dict[str, Any]) -> None:
    """One line, on stderr."""
    mark = " " if row["kind"] == row["expected"] else "≠"
    print(
        f"{row['name']:<16}{row['expected']:<12}{mark} {row['kind']:<12}{row['confidence']:>6.2f}  "
        + "; ".join(row["because"][:4]),
        file=sys.stderr,
    )


def confusion(rows: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """The expert's class → what it was called → how many."""
    counts = Counter((row["expected"], row["kind"]) for row in rows)
    return {wanted: {found: counts[wanted, found] for found in KINDS} for wanted in KINDS}


def print_confusion(table: dict[str, dict[str, int]]) -> None:
    """Rows: the expert. Columns: this program."""
    print(f"\n{'EXPERT':<14}" + "".join(f"{kind.upper():>12}" for kind in KINDS), file=sys.stderr)
    for wanted, found in table.items():
        print(f"{wanted:<14}" + "".join(f"{found[kind] or '·':>12}" for kind in KINDS), file=sys.stderr)


if __name__ == "__main__":
    main()
