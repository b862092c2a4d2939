# SPDX-License-Identifier: Apache-2.0
"""The steps by hand, each printing its value: `observe`, `plan`, `render`."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.cli.output import structured
from controller.cli.text import table
from controller.cli.wait import seconds
from controller.errors import InputError

if TYPE_CHECKING:
    from controller.api import (
        Desired,
        Histogram,
        SchedulerPolicy,
        SchedulerTemplate,
        SchedulingIntent,
        WorkloadProfile,
        WorkloadStats,
    )

_HEADER = (
    "WORKLOAD", "KEY", "TASKS", "CPU%", "WAKEUPS/S", "LATENCY P50", "LATENCY P99", "BURST P50", "SWITCHES/S",
    "MIGRATIONS/S", "FORKS/S",
)  # fmt: skip


def _observe_arguments(parser: Parser) -> None:
    parser.add_argument("--for", dest="window", metavar="TIME", default="10s", help="how long to look (default: 10s)")
    parser.output("table", "json", "yaml")
    parser.add_argument("--record", metavar="FILE", help="write the profile to FILE, as JSON, too")
    parser.add_argument("--procfs", action="store_true", help="sample /proc instead of tracing in the kernel")


def _observe(args: Namespace, context: Context) -> int:
    profile = _profile(args, context, _intents(args, context))
    if args.record:
        _write(Path(args.record), structured(profile.wire(), "json"))
    if args.output != "table":
        context.out(structured(profile.wire(), args.output))
        return 0
    if profile.degraded:
        context.warn(f"Warning: observed with {profile.observer}: {profile.degraded}")
    if profile.dropped:
        context.warn(f"Warning: {profile.dropped} events were not attributed: a map was full")
    for match in profile.matches:
        if match.unresolved:
            context.warn(f"Warning: intent {match.intent}: {match.unresolved}")
    context.out(profile_table(profile))
    return 0


def _profile(args: Namespace, context: Context, intents: tuple[SchedulingIntent, ...]) -> WorkloadProfile:
    from controller import observe

    window = seconds(args.window, "--for")
    if not 0 < window <= 3600:
        raise InputError(f'invalid argument "{args.window}" for "--for" flag: must be above 0 and at most 1h')
    report = context.reporter
    report.step(f"observing for {args.window}")
    profile = observe.profile(window, intents=intents, reporter=report, force_procfs=args.procfs)
    report.done(f"{len(profile.workloads)} workloads")
    return profile


def _intents(args: Namespace, context: Context) -> tuple[SchedulingIntent, ...]:
    """The committed intents, so that their workloads get rows of their own; none outside a policy repository."""
    desired = _desired_if_any(args, context)
    return desired.intents if desired is not None else ()


def _desired_if_any(args: Namespace, context: Context) -> Desired | None:
    """A repository that was named must be one; the current folder need not be."""
    if args.repo or context.environ.get("SCHEDCTL_REPO"):
        return context.desired(context.store(args))
    with contextlib.suppress(InputError):
        return context.store(args).read().desired
    return None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f'cannot write "{path}": {error.strerror}') from None


def profile_table(profile: WorkloadProfile) -> str:
    """One row a workload, busiest first; `-` where this observer could not measure."""
    window = profile.window_ns / 1e9
    return table(_HEADER, [_row(workload, window) for workload in profile.workloads])


def _row(workload: WorkloadStats, window: float) -> list[str]:
    switches = [workload.voluntary_switches, workload.involuntary_switches]
    switched = None if None in switches else sum(filter(None, switches))
    return [
        workload.name,
        workload.keyed_by,
        str(workload.tasks),
        f"{workload.cpu_share * 100:.1f}",
        _rate(workload.wakeups, window),
        _percentile(workload.wakeup_latency, 50),
        _percentile(workload.wakeup_latency, 99),
        _percentile(workload.burst, 50),
        _rate(switched, window),
        _rate(workload.migrations, window),
        _rate(workload.forks, window),
    ]


def _rate(count: int | None, window: float) -> str:
    if count is None:
        return "-"
    rate = count / window
    return f"{rate:.0f}" if rate >= 10 or rate == 0 else f"{rate:.1f}"


def _percentile(histogram: Histogram | None, percent: float) -> str:
    return nanoseconds(histogram.percentile(percent)) if histogram is not None and histogram.count else "-"


def nanoseconds(value: float) -> str:
    """A measured time in three digits: 850ns, 12.3us, 4.56ms, 1.20s."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if value >= size:
            figure = value / size
            return (
                f"{figure:.0f}{unit}"
                if figure >= 100
                else f"{figure:.1f}{unit}"
                if figure >= 10
                else f"{figure:.2f}{unit}"
            )
    return f"{value:.0f}ns"


def _plan_arguments(parser: Parser) -> None:
    parser.add_argument("-f", "--filename", metavar="PROFILE", help="a profile (`observe -o json`); - is stdin")
    parser.add_argument("--node", metavar="NODE", help="the profile this node last reported")
    parser.add_argument("--for", dest="window", metavar="TIME", default="10s", help="without either: observe this long")
    parser.add_argument(
        "--policy", metavar="NAME", help="plan under this policy; default: the one that governs the node"
    )
    parser.add_argument("--planner", metavar="MODE", help="auto, rules, search or claude; default: as the policy says")
    parser.output("yaml", "json")


def _plan(args: Namespace, context: Context) -> int:
    from controller import plan
    from controller.api import NodeScheduler, NodeStatus, ObjectMeta
    from controller.reconcile.keys import counted_intents
    from controller.reconcile.planner import allowed_templates

    if args.filename and args.node:
        raise UsageError("-f and --node exclude each other")
    store = context.store(args)
    desired = context.desired(store)
    nodes = {node.name: node for node in store.nodes()}
    if args.node and (args.node not in nodes or nodes[args.node].status is None):
        raise InputError(f'node "{args.node}" has not reported', remedy=f"known are: {', '.join(nodes) or '-'}")
    profile = _profile_to_plan(args, context, desired, nodes)
    labels = nodes[profile.node].spec.labels if profile.node in nodes else {}
    policy = _policy(args, context, desired, labels)
    seen = NodeScheduler(metadata=ObjectMeta(name="profiled"), status=NodeStatus(profile=profile))
    intents = counted_intents(desired, seen)
    if not intents:
        raise InputError(
            f"no plan: none of the {len(desired.intents)} intents matches a task of the profile",
            remedy="`schedctl observe` shows what ran; compare the selectors",
        )
    proposal = plan.propose(profile, intents, policy, allowed_templates(policy, desired))
    context.out(structured(proposal.wire(), args.output))
    return 0


def _profile_to_plan(
    args: Namespace, context: Context, desired: Desired, nodes: Mapping[str, object]
) -> WorkloadProfile:
    from controller.api import NodeScheduler, WorkloadProfile

    if args.filename:
        from controller.cli.values import read_value

        return read_value(WorkloadProfile, args.filename, context)
    node = nodes.get(args.node)
    if isinstance(node, NodeScheduler):
        if node.status is None or node.status.profile is None:
            raise InputError(f'node "{args.node}" has not reported a profile yet', remedy="wait, or give one with -f")
        return node.status.profile
    args.procfs = False
    return _profile(args, context, desired.intents)


def _policy(args: Namespace, context: Context, desired: Desired, labels: Mapping[str, str]) -> SchedulerPolicy:
    from controller.api import ObjectMeta, SchedulerPolicy
    from controller.cli.command import not_found
    from controller.reconcile.keys import Conflict, governing

    if args.policy:
        policy = next((p for p in desired.policies if p.name == args.policy), None)
        if policy is None:
            raise not_found("schedulerpolicies.schedctl.dev", args.policy)
    else:
        found = governing(desired.policies, labels)
        if isinstance(found, Conflict):
            raise InputError(
                f"policies {', '.join(found.policies)} select this node with equal priority",
                remedy="name one with --policy",
            )
        if found is None:
            context.warn("Warning: no policy selects this node: planning with the defaults, which no node would attach")
        policy = found or SchedulerPolicy(metadata=ObjectMeta(name="default"))
    if not args.planner:
        return policy
    modes = ("auto", "rules", "search", "claude")
    if args.planner not in modes:
        raise InputError(f'unknown planner "{args.planner}"', remedy=f"one of {', '.join(modes)}")
    planner = policy.spec.planner.model_copy(update={"mode": args.planner})
    return policy.model_copy(update={"spec": policy.spec.model_copy(update={"planner": planner})})


def _render_arguments(parser: Parser) -> None:
    parser.add_argument("-f", "--filename", metavar="PROPOSAL", help="a proposal (`plan`), YAML or JSON; - is stdin")


def _render(args: Namespace, context: Context) -> int:
    from controller import render
    from controller.api import Proposal
    from controller.cli.values import read_value

    if not args.filename:
        raise UsageError("must specify -f")
    proposal = read_value(Proposal, args.filename, context)
    context.out(render.render(proposal, template_of(proposal.template, args, context)).text)
    return 0


def template_of(name: str, args: Namespace, context: Context) -> SchedulerTemplate:
    """The built-in or committed template called `name`. InputError if there is none."""
    desired = _desired_if_any(args, context)
    if desired is not None:
        from controller.source import all_templates

        known = dict(all_templates(desired))
    else:
        from controller.render.catalog import builtin_templates

        known = {template.name: template for template in builtin_templates()}
    if name not in known:
        raise InputError(
            f'there is no SchedulerTemplate "{name}"', remedy=f"there are {', '.join(sorted(known)) or '-'}"
        )
    return known[name]


OBSERVE = Verb(
    run=_observe, arguments=_observe_arguments, usage="[--for 10s] [-o json|yaml] [--record FILE] [--procfs]"
)
PLAN = Verb(run=_plan, arguments=_plan_arguments, usage="[-f PROFILE | --node NODE] [--planner rules] [-o json]")
RENDER = Verb(run=_render, arguments=_render_arguments, usage="-f PROPOSAL")
