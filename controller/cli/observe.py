# SPDX-License-Identifier: Apache-2.0
"""`schedctl observe`: what runs on this machine, now or as it was recorded.

The same profile goes to every face: as a table, as JSON or YAML, into a file (`--record`), and back from one (`-f`),
with which each verb that takes a live profile also takes a recorded one. `--intent` takes none: it looks at the tasks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.command import Parser, UsageError, Verb, not_found
from controller.cli.context import Context
from controller.cli.output import structured
from controller.cli.profile import encodable, has_blocks, profile_table, sections
from controller.cli.text import one_line, printable, table
from controller.cli.wait import seconds
from controller.errors import InputError

if TYPE_CHECKING:
    from controller.api import Desired, SchedulingIntent, WorkloadProfile
    from controller.observe import Explanation

_WINDOW = "10s"
_SHOWN = 20
"""Near misses in the table; all are in the JSON."""


def _arguments(parser: Parser) -> None:
    live(parser)
    parser.output("table", "wide", "json", "yaml")
    profile_file(parser)
    parser.add_argument("--record", metavar="FILE", help="write the profile to FILE, as JSON, too")
    parser.add_argument("--intent", metavar="NAME", help="show the tasks it matches now, and why not the rest")


def live(parser: Parser) -> None:
    """Add how a live profile is taken."""
    parser.add_argument("--for", dest="window", metavar="TIME", help=f"how long to look (default: {_WINDOW})")
    parser.add_argument("--procfs", action="store_true", help="sample /proc instead of tracing in the kernel")


def profile_file(parser: Parser) -> None:
    """Add `-f` for a recorded profile in place of a live one."""
    parser.add_argument(
        "-f", "--filename", "--from", metavar="PROFILE", help="a recorded profile instead of a live one; - is stdin"
    )


def _observe(args: Namespace, context: Context) -> int:
    if args.intent is not None:
        return _intent(args, context)
    profile = read_or_take(args.filename, args, context)
    if args.record:
        _record(Path(args.record), structured(profile.wire(), "json"))
    if args.output in ("json", "yaml"):
        context.out(structured(profile.wire(), args.output))
        return 0
    caveats(profile, context)
    wide, blocks = args.output == "wide", has_blocks(context.stdout, context.environ.get("TERM", ""))
    context.out(profile_table(profile, wide=wide, blocks=blocks))
    if wide and (below := sections(profile, blocks=blocks)):
        context.out("\n" + below)
    return 0


def read_or_take(path: str | None, args: Namespace, context: Context) -> WorkloadProfile:
    """The profile that is recorded in `path`, or a live one without it. ManifestError if the file holds none."""
    if not path:
        args.window = args.window or _WINDOW
        return take(args, context, _intents(args, context))
    if args.window or args.procfs:
        raise UsageError("a recorded profile goes with neither --for nor --procfs")
    return read(path, context)


def read(path: str, context: Context) -> WorkloadProfile:
    """The profile in a file; `-` is stdin. ManifestError if it holds none."""
    from controller.api import WorkloadProfile
    from controller.cli.values import read_value

    return read_value(WorkloadProfile, path, context)


def take(args: Namespace, context: Context, intents: Sequence[SchedulingIntent]) -> WorkloadProfile:
    """A live profile over `--for`. InputError if that is no usable time."""
    from controller import observe

    window = seconds(args.window, "--for")
    if not 0 < window <= 3600:
        raise InputError(f'invalid argument "{args.window}" for "--for" flag: must be above 0 and at most 1h')
    report = context.reporter
    report.step(f"observing for {args.window}")
    profile = observe.profile(window, intents=intents, reporter=report, force_procfs=args.procfs)
    report.done(f"{len(profile.workloads)} workloads")
    return profile


def caveats(profile: WorkloadProfile, context: Context) -> None:
    """What a table cannot say about the profile, as warnings."""
    if profile.degraded:
        context.warn(f"Warning: observed with {profile.observer}: {one_line(profile.degraded)}")
    if profile.dropped:
        context.warn(f"Warning: {profile.dropped} events were not attributed: a map was full")
    for match in profile.matches:
        if match.unresolved:
            context.warn(f"Warning: intent {one_line(match.intent)}: {one_line(match.unresolved)}")


def _intents(args: Namespace, context: Context) -> tuple[SchedulingIntent, ...]:
    """The committed intents, so that their workloads get rows of their own; none outside a policy repository."""
    desired = desired_if_any(args, context)
    return desired.intents if desired is not None else ()


def desired_if_any(args: Namespace, context: Context) -> Desired | None:
    """A repository that was named must be one; the current folder need not be."""
    if args.repo or context.environ.get("SCHEDCTL_REPO"):
        return context.desired(context.store(args))
    with contextlib.suppress(InputError):
        return context.store(args).read().desired
    return None


def _record(path: Path, text: str) -> None:
    """Whole or not at all: what was recorded before stays until the new profile is there."""
    from controller.kernel import leftovers

    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_text(text, encoding="utf-8")  # a pipe or a device must not be replaced by a file
        else:
            leftovers.write(path.resolve(), text.encode())
    except OSError as error:
        raise InputError(f'cannot write "{path}": {error.strerror}') from None


def _intent(args: Namespace, context: Context) -> int:
    from controller import observe

    if args.filename or args.record:
        raise UsageError("--intent looks at the tasks that are there now: it goes with neither -f nor --record")
    intents = context.desired(context.store(args)).intents
    found = observe.explain(_called(args.intent, intents), intents)
    if args.output in ("json", "yaml"):
        context.out(structured(_explanation(found), args.output))
        return 0
    for note in found.notes:
        context.warn(f"Warning: {note}")
    context.out(_matches_text(found))
    return 0


def _called(name: str, intents: Sequence[SchedulingIntent]) -> SchedulingIntent:
    """The intent NAME or NAMESPACE/NAME; a bare name is looked for in `default` first, then everywhere."""
    space, sign, bare = name.rpartition("/")
    named = [i for i in intents if i.name == bare and (not sign or (i.namespace or "default") == space)]
    chosen = [i for i in named if (i.namespace or "default") == "default"] or named
    if not chosen:
        raise not_found("schedulingintents.schedctl.dev", name)
    if len(chosen) > 1:
        known = ", ".join(i.qualified_name for i in chosen)
        raise InputError(f'several intents are called "{name}"', remedy=f"give one of {known}")
    return chosen[0]


def _matches_text(found: Explanation) -> str:
    from controller.observe import user_name

    owners = {uid: user_name(uid) for uid in {t.uid for t in [*found.tasks, *(n.task for n in found.near)]}}
    parts = [f"{found.intent} matches {len(found.tasks)} of {found.seen} tasks\n"]
    if found.tasks:
        taken = bool(found.taken)
        rows = [
            [str(t.pid), str(t.tid), t.comm, owners[t.uid], t.cgroup or "-"]
            + ([found.taken.get(t.tid, "")] if taken else [])
            for t in found.tasks
        ]
        parts.append(table(["PID", "TID", "COMM", "USER", "CGROUP"] + ["COUNTS FOR"] * taken, rows))
    if found.near:
        rows = [[n.task.comm, str(n.tasks), str(n.task.pid), owners[n.task.uid], n.why] for n in found.near[:_SHOWN]]
        more = len(found.near) - len(rows)
        rest = f"{more} more are in -o json\n" if more > 0 else ""
        parts.append(table(["NEAR MISS", "TASKS", "PID", "USER", "WHY"], rows) + rest)
    if found.misses:
        lines = [[f"{m.field}:", f"{m.tasks} tasks, such as {', '.join(m.such_as)}"] for m in found.misses]
        parts.append("Not matched, by the first field that does not fit:\n" + table([], lines, headers=False))
    return "\n".join(parts)


def _explanation(found: Explanation) -> dict[str, object]:
    from controller.observe import Task, user_name

    def plain(task: Task) -> dict[str, object]:
        return {
            "pid": task.pid, "tid": task.tid, "comm": task.comm, "uid": task.uid, "user": user_name(task.uid),
            "cgroup": task.cgroup,
        }  # fmt: skip

    return {
        "intent": found.intent,
        "seen": found.seen,
        "notes": list(found.notes),
        "tasks": [
            {**plain(t), **({"countsFor": found.taken[t.tid]} if t.tid in found.taken else {})} for t in found.tasks
        ],
        "nearMisses": [{**plain(n.task), "tasks": n.tasks, "why": n.why} for n in found.near],
        "misses": [{"field": m.field, "tasks": m.tasks, "suchAs": list(m.such_as)} for m in found.misses],
    }


def schema_text() -> str:
    """The JSON Schema of what `observe -o json` prints, from the model that checks it."""
    from controller.api import WorkloadProfile

    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **WorkloadProfile.model_json_schema()}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _schema(_args: Namespace, context: Context) -> int:
    context.out(schema_text())
    return 0


def _diff_arguments(parser: Parser) -> None:
    parser.add_argument("profiles", nargs="*", metavar="PROFILE", help="one: what is live now is compared with it")
    live(parser)
    parser.output("words", "wide", "json", "yaml")


def _diff(args: Namespace, context: Context) -> int:
    from controller.observe import compare

    if not 1 <= len(args.profiles) <= 2:
        raise UsageError("name two recorded profiles, or one to compare what is live with")
    if args.profiles.count("-") > 1:
        raise UsageError("only one of the profiles can be stdin")
    before = read(args.profiles[0], context)
    after = read_or_take(args.profiles[1] if len(args.profiles) > 1 else None, args, context)
    found = compare.changes(before, after)
    if args.output in ("json", "yaml"):
        plain = [dataclasses.asdict(change) for change in found]
        context.out(structured({"changes": plain}, args.output))
    elif args.output == "wide":
        rows = [
            [c.workload or "-", c.what, _figure(c.before), _figure(c.after), f"{c.importance:.2f}", c.text]
            for c in found
        ]
        text = table(["WORKLOAD", "WHAT", "BEFORE", "AFTER", "IMPORTANCE", "IN WORDS"], rows)
        context.out(encodable(text, context.stdout))
    else:
        context.out(encodable(printable(compare.words(found)), context.stdout))
    return 1 if any(change.what != "distance" for change in found) else 0


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


OBSERVE = Verb(
    run=_observe,
    arguments=_arguments,
    usage="[--for 10s | -f PROFILE] [-o wide|json|yaml] [--record FILE] [--procfs]\n"
    "  schedctl observe --intent NAME [-o json|yaml]",
)
DIFF = Verb(
    run=_diff,
    arguments=_diff_arguments,
    usage="BEFORE AFTER [-o wide|json|yaml]\n  schedctl observe diff BEFORE [--for 10s]",
    details="What changed beyond chance, most important first. Exit code: 0 nothing did, 1 something did, 2 trouble.",
    failure=2,
)
SCHEMA = Verb(run=_schema, usage="> docs/profile.schema.json")
