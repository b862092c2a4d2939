# SPDX-License-Identifier: Apache-2.0
"""Which tasks an intent matches now, and why not the rest.

A task that does not fit is counted under the first field that does not, in the order comm, cgroup, unit, user,
podSelector: the later the field, the nearer the task came. A *near miss* fits every field but one and that one for a
reason a person can act on: another case, a name that the kernel cut to 15 bytes, a name that is in the command line
alone, a thread that has a name of its own, a part of the path, a unit without its suffix, an effective user.
All of it is read from what /proc shows everybody: no root is needed.
"""

from __future__ import annotations

import os
import pwd
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from controller.api.intent import SchedulingIntent, WorkloadSelector
from controller.observe import cgroups, grouping
from controller.observe.names import COMM_BYTES, printable
from controller.observe.names import glob as matches_glob
from controller.observe.selectors import PROC, Matcher, Task, Thread, threads

_ARGUMENTS = 4
"""Words of a command line that may be a program's name: `python3 -u app.py`, `java -jar app.jar`."""

_LITERAL = 3
"""Characters a pattern must spell out to be looked for in command lines: `b*` would be found in most of them."""

_SUCH_AS = 5
_UNIT_SUFFIXES = (b".service", b".scope", b".slice")


@dataclass(frozen=True)
class Near:
    """Tasks of one name that nearly fit, `task` being one of them."""

    task: Task
    why: str
    tasks: int = 1


@dataclass(frozen=True)
class Miss:
    """Tasks whose first field that does not fit is `field`, with the values it has most often there."""

    field: str
    tasks: int
    such_as: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """What `intent` matches, and what not. `taken` is thread id → the intent that comes first and matches it too.

    `notes` say which field could not be evaluated here and why, and what is hidden from this user.
    """

    intent: str
    tasks: tuple[Task, ...]
    taken: dict[int, str]
    notes: tuple[str, ...]
    near: tuple[Near, ...]
    misses: tuple[Miss, ...]
    seen: int


@dataclass
class _Process:
    """What is known of a process once; its threads come one after the other."""

    folder: Path
    comm: bytes = b""
    words: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, folder: Path) -> _Process:
        return cls(folder, _bytes(folder / "comm").removesuffix(b"\n"), _bytes(folder / "cmdline").split(b"\0"))


def explain(wanted: SchedulingIntent, intents: Sequence[SchedulingIntent], *, proc: Path = PROC) -> Explanation:
    """`wanted` against every task of this node. `intents` are all of them in order of precedence."""
    matcher, selector = Matcher(wanted.spec.workload), wanted.spec.workload
    key = wanted.qualified_name
    before = []
    for intent in intents:
        if intent.qualified_name == key:
            break
        before.append((intent.qualified_name, Matcher(intent.spec.workload)))
    tasks: list[Task] = []
    taken: dict[int, str] = {}
    near: dict[tuple[str, str], list[Task]] = defaultdict(list)
    missed: dict[str, Counter[str]] = defaultdict(Counter)
    seen, process = 0, _Process(proc)
    for thread in threads(proc):
        seen += 1
        fits = matcher.fields(thread.comm, thread.path, thread.uid)
        misfits = [name for name, fit in fits.items() if not fit]
        if not misfits:
            tasks.append(thread.task)
            first = next((k for k, m in before if m.matches(thread.comm, thread.path, thread.uid)), None)
            if first is not None:
                taken[thread.tid] = first
            continue
        missed[misfits[0]][_value(misfits[0], thread)] += 1
        if len(misfits) == 1:
            if process.folder != thread.folder:
                process = _Process.of(thread.folder)
            if why := _near(misfits[0], selector, matcher, thread, process):
                near[thread.task.comm, why].append(thread.task)
    return Explanation(
        intent=key,
        tasks=tuple(tasks),
        taken=taken,
        notes=tuple(_notes(matcher, selector, proc)),
        near=tuple(Near(found[0], why, len(found)) for (_, why), found in near.items()),
        misses=tuple(
            Miss(name, missed[name].total(), tuple(value for value, _ in missed[name].most_common(_SUCH_AS)))
            for name in reversed(Matcher.FIELDS)
            if name in missed
        ),
        seen=seen,
    )


def user_name(uid: int) -> str:
    """The name of a user id, or the number where it has none."""
    try:
        return printable(os.fsencode(pwd.getpwuid(uid).pw_name))
    except KeyError:
        return str(uid)


def _notes(matcher: Matcher, selector: WorkloadSelector, proc: Path) -> Iterator[str]:
    if matcher.unresolved:
        yield matcher.unresolved
    for user in matcher.unknown_users:
        close = get_close_matches(user, [each.pw_name for each in pwd.getpwall()], n=1)
        if close:
            yield f"user {user} is not known; did you mean {printable(os.fsencode(close[0]))}?"
    if selector.pod_selector is not None and not (selector.cgroup or selector.unit):
        yield "to select a pod by its UID or a container by its id, use cgroup, such as *pod1b4e28ba_2fa1_11d2_*"
    if not (proc / "1").exists():
        yield "processes of other users are hidden from you (/proc is mounted with hidepid): run it as root"


def _value(name: str, thread: Thread) -> str:
    """What the field is for this thread, as it is shown among those that do not fit."""
    match name:
        case "comm":
            return printable(grouping.fold(thread.comm))
        case "user":
            return user_name(thread.uid)
        case "unit":
            units = cgroups.units(thread.path) if thread.path is not None else []
            return printable(units[-1]) if units else "no unit"
        case _:
            return "no cgroup v2" if thread.path is None else printable(thread.path)


def _near(name: str, selector: WorkloadSelector, matcher: Matcher, thread: Thread, process: _Process) -> str:
    """Why a thread that fits every other field does not fit this one, if the reason is one to act on."""
    match name:
        case "comm":
            why = _near_comm([pattern.encode() for pattern in selector.comm], matcher, thread, process)
        case "user":
            why = _near_user(matcher, process)
        case "unit":
            why = _near_unit([pattern.encode() for pattern in selector.unit], thread)
        case "cgroup":
            why = _near_cgroup([pattern.strip("/").encode() for pattern in selector.cgroup], thread)
        case _:
            why = ""
    return f"{name}: {why}" if why else ""


def _near_comm(patterns: list[bytes], matcher: Matcher, thread: Thread, process: _Process) -> str:
    for pattern in patterns:
        if matches_glob(pattern.lower(), thread.comm.lower()):
            return f"differs from {printable(pattern)} in upper and lower case only"
    if thread.tid != thread.pid and matcher.comm(process.comm):
        return f"a thread of {printable(process.comm)} with a name of its own"
    names = [word.rpartition(b"/")[2] for word in process.words[:_ARGUMENTS]]
    program = names[0] if names else b""
    for pattern in patterns:
        if len(thread.comm) == COMM_BYTES and program.startswith(thread.comm) and matches_glob(pattern, program):
            return (
                f"the kernel keeps {COMM_BYTES} bytes of {printable(program, 60)}: {printable(pattern)} needs the rest"
            )
    for pattern in patterns:
        if len(pattern) - pattern.count(b"*") - pattern.count(b"?") < _LITERAL:
            continue
        found = next((n for n in names if n and not n.startswith(b"-") and matches_glob(pattern, n)), None)
        if found is not None and thread.tid == thread.pid:
            return f"{printable(pattern)} fits {printable(found, 60)} in its command line, not its name"
    return ""


def _near_user(matcher: Matcher, process: _Process) -> str:
    line = next((ln for ln in _bytes(process.folder / "status").splitlines() if ln.startswith(b"Uid:")), b"")
    fields = line.split()
    if len(fields) > 2 and matcher.user(int(fields[2])):
        return f"runs with the rights of {user_name(int(fields[2]))}, but was started by {user_name(int(fields[1]))}"
    return ""


def _near_unit(patterns: list[bytes], thread: Thread) -> str:
    for unit in cgroups.units(thread.path) if thread.path is not None else []:
        for pattern in patterns:
            if any(matches_glob(pattern + suffix, unit) for suffix in _UNIT_SUFFIXES):
                return f"{printable(pattern)} lacks the suffix of {printable(unit)}"
            if matches_glob(pattern.lower(), unit.lower()):
                return f"{printable(unit)} differs from {printable(pattern)} in upper and lower case only"
    return ""


def _near_cgroup(patterns: list[bytes], thread: Thread) -> str:
    path = thread.path or b""
    for pattern in patterns:
        if matches_glob(b"*" + pattern + b"*", path):
            return f"{printable(pattern)} fits a part of its path only, and patterns are of a whole path: begin with *"
        if any(matches_glob(pattern.lower(), above.strip(b"/").lower()) for above in cgroups.lineage(path)):
            return f"its path differs from {printable(pattern)} in upper and lower case only"
    return ""


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # it is gone, or not ours to read
        return b""
