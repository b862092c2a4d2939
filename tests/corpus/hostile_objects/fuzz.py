# SPDX-License-Identifier: Apache-2.0
"""Random mutations of good objects through the audit: each is read or refused, in time, and nothing else happens.

Mutations are drawn from a seed: bytes flipped, inserted, removed and repeated, parts of two objects spliced, and
fields of the ELF header, the section headers, the symbols and the BTF set to numbers that tend to break readers. The
audit runs in processes of its own, so that a crash or a hang is counted and not suffered.
"""

from __future__ import annotations

import multiprocessing
import random
import resource
import time
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.corpus.hostile_objects import layout as at

BATCH = 100
DEADLINE_S = 10.0
"""For one batch: at 5 ms each it takes 0.5 s."""
MEMORY = 1 << 30
NASTY = (0, 1, 2, 7, 8, 16, 24, 63, 64, 255, 256, 4095, 0x7FFF, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
         1 << 32, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip


@lru_cache(maxsize=1)
def good_object() -> bytes:
    """The object that the cases are made from."""
    from controller.kernel import clang
    from controller.paths import data_dir
    from tests.verify.sources import fifo

    table = 'struct { int (*type)[2]; int (*max_entries)[16]; u32 *key; u64 *value; } m SEC(".maps");\n'
    return clang.compile_bpf(fifo(top=table), data_dir("bpf") / "include").object


def mutate(good: tuple[bytes, ...], seed: int) -> bytes:
    """The mutation with this number."""
    chance = random.Random(seed)
    data = chance.choice(good)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        try:
            data = chance.choice(_MUTATIONS)(data, chance, good)
        except (IndexError, ValueError, KeyError, ArithmeticError, at.struct.error):
            data = _flip(data or b"\0", chance, good)  # too broken already for a change that knows the layout
    return data


def _flip(data: bytes, chance: random.Random, _good: tuple[bytes, ...]) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(chance.choice((1, 1, 4, 32, 256))):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, chance: random.Random, _good: tuple[bytes, ...]) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + chance.randbytes(chance.choice((1, 4, 8, 64, 512))) + data[start + 8 :]


def _truncate(data: bytes, chance: random.Random, _good: tuple[bytes, ...]) -> bytes:
    return data[: chance.randrange(len(data))]


def _repeat(data: bytes, chance: random.Random, _good: tuple[bytes, ...]) -> bytes:
    start = chance.randrange(len(data))
    part = data[start : start + chance.choice((8, 64, 1024))]
    return data[:start] + part * chance.choice((2, 16, 200)) + data[start:]


def _remove(data: bytes, chance: random.Random, _good: tuple[bytes, ...]) -> bytes:
    start = chance.randrange(len(data))
    return data[:start] + data[start + chance.choice((1, 8, 64, 4096)) :]


def _splice(data: bytes, chance: random.Random, good: tuple[bytes, ...]) -> bytes:
    other = chance.choice(good)
    return data[: chance.randrange(len(data))] + other[chance.randrange(len(other)) :]


def _header_field(data: bytes, chance: random.Random, _good: tuple[bytes, ...]) -> bytes:
    return at.header(data, chance.choice(list(at.HEADER)), chance.choice(NASTY))


def _section_field(data: bytes, chance: random.Random, _good: tuple[bytes, ...]) -> bytes:
    offset, kind = at.SECTION[chance.choice(list(at.SECTION))]
    return at.put(data, chance.choice(at.table(data)) + offset, kind, _number(chance, len(data)))


def _btf_field(data: bytes, chance: random.Random, _good: tuple[bytes, ...]) -> bytes:
    offset, kind = at.BTF[chance.choice(list(at.BTF))]
    return at.put(data, at.content(data, ".BTF")[0] + offset, kind, _number(chance, 20000))


def _word_of(section: str) -> Any:
    def change(data: bytes, chance: random.Random, _good: tuple[bytes, ...]) -> bytes:
        start, size = at.content(data, section)
        where = start + chance.randrange(max(size // 4, 1)) * 4
        return at.put(data, where, "I", _number(chance, size))

    return change


def _number(chance: random.Random, near: int) -> int:
    return chance.choice((chance.choice(NASTY), chance.randrange(max(near, 1) + 64), chance.getrandbits(32)))


_MUTATIONS = (
    _flip, _overwrite, _truncate, _repeat, _remove, _splice, _header_field, _section_field, _section_field, _btf_field,
    _word_of(".BTF"), _word_of(".BTF"), _word_of(".symtab"), _word_of(".strtab"), _word_of(".struct_ops.link"),
    _word_of("struct_ops/fifo_enqueue"),
)  # fmt: skip


def fuzz(count: int, seed: int, good: tuple[bytes, ...] | None = None) -> dict[str, Any]:
    """Put `count` mutations through the audit, in as many processes as the machine has CPUs.

    Returns count, passed, rejected, crashed, hung, seconds, slowest_ms, peak_mib (of the largest process), rules (how
    often each was the first reason) and bad (the seeds of crashed and hung ones).
    """
    images = good or (good_object(),)
    started = time.monotonic()
    batches = [range(first, min(first + BATCH, seed + count)) for first in range(seed, seed + count, BATCH)]
    said: dict[str, Any] = {"count": count, "passed": 0, "rejected": 0, "crashed": 0, "hung": 0, "slowest_ms": 0.0,
                            "peak_mib": 0, "rules": Counter(), "bad": []}  # fmt: skip
    context = multiprocessing.get_context("spawn")
    with context.Pool(maxtasksperchild=40, initializer=_limit) as pool:
        waiting = [(batch, pool.apply_async(_judge, (images, batch))) for batch in batches]
        for batch, result in waiting:
            try:
                told = result.get(timeout=DEADLINE_S * 3)
            except multiprocessing.TimeoutError:
                said["hung"] += len(batch)
                said["bad"].extend(batch)
                continue
            for key in ("passed", "rejected", "crashed", "hung"):
                said[key] += told[key]
            said["bad"].extend(told["bad"])
            said["rules"].update(told["rules"])
            said["slowest_ms"] = max(said["slowest_ms"], told["slowest_ms"])
            said["peak_mib"] = max(said["peak_mib"], told["peak_mib"])
    return {**said, "rules": dict(said["rules"].most_common()), "seconds": round(time.monotonic() - started, 1)}


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _judge(images: tuple[bytes, ...], seeds: range) -> dict[str, Any]:
    from controller.verify.audit import AuditRejected, audit

    told: dict[str, Any] = {"passed": 0, "rejected": 0, "crashed": 0, "hung": 0, "bad": [], "rules": Counter(),
                            "slowest_ms": 0.0}  # fmt: skip
    for number in seeds:
        data = mutate(images, number)
        begun = time.process_time()
        try:
            audit(data)
            told["passed"] += 1
        except AuditRejected as error:
            told["rejected"] += 1
            told["rules"][error.findings[0].rule] += 1
        except BaseException as error:  # noqa: BLE001 - whatever else it raises is the defect that is looked for
            told["crashed"] += 1
            told["bad"].append((number, repr(error)[:200]))
        took = (time.process_time() - begun) * 1000
        told["slowest_ms"] = max(told["slowest_ms"], round(took, 1))
        if took > DEADLINE_S * 1000:
            told["hung"] += 1
            told["bad"].append((number, "slow"))
    told["peak_mib"] = _peak_mib()
    return told


def _peak_mib() -> int:
    # ru_maxrss outlives exec: a spawned process would show what its parent had, when that was more.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0]) >> 10
