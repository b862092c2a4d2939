# SPDX-License-Identifier: Apache-2.0
"""The steps by hand, each printing its value: `plan`, `render` (and `observe`, in its own module)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.cli.observe import desired_if_any, take
from controller.cli.output import structured
from controller.errors import InputError

if TYPE_CHECKING:
    from controller.api import (
        Desired,
        NodeScheduler,
        SchedulerPolicy,
        SchedulerTemplate,
        WorkloadProfile,
    )
    from controller.plan import Bench
    from controller.plan.bridge import Bridge


def _plan_arguments(parser: Parser) -> None:
    parser.add_argument("-f", "--filename", metavar="PROFILE", help="a profile (`observe -o json`); - is stdin")
    parser.add_argument("--node", metavar="NODE", help="the profile this node last reported")
    parser.add_argument("--for", dest="window", metavar="TIME", default="10s", help="without either: observe this long")
    parser.add_argument(
        "--policy", metavar="NAME", help="plan under this policy; default: the one that governs the node"
    )
    parser.add_argument("--planner", metavar="MODE", help="auto, rules, search or claude; default: as the policy says")
    parser.add_argument(
        "--bridge", metavar="DIR", help="ask by files: each question is written to DIR, its answer is read from there"
    )
    parser.add_argument("--bridge-wait", metavar="TIME", default="10m", help="how long an answer may take")
    parser.add_argument(
        "--autonomy",
        metavar="LEVEL",
        help="parameters, expressions or template (with --record); at most what the policy allows",
    )
    parser.add_argument("--no-recall", action="store_true", help="do not look for what worked before")
    parser.add_argument("--record", metavar="BUNDLE", default="", help="keep all that went into it in this new folder")
    parser.add_argument("--replay", metavar="BUNDLE", default="", help="make a recorded plan again: a folder or digest")
    parser.output("yaml", "json")


def _plan(args: Namespace, context: Context) -> int:
    from controller import plan
    from controller.api import NodeScheduler, NodeStatus, ObjectMeta
    from controller.reconcile.keys import counted_intents
    from controller.reconcile.questions import allowed_templates
    from controller.reconcile.record import Campaign

    if args.filename and args.node:
        raise UsageError("-f and --node exclude each other")
    if args.replay:
        from controller.cli.campaign import replayed

        return replayed(args, context)
    store = context.store(args)
    desired = context.desired(store)
    nodes = {node.name: node for node in store.nodes()}
    if args.node and (args.node not in nodes or nodes[args.node].status is None):
        raise InputError(f'node "{args.node}" has not reported', remedy=f"known are: {', '.join(nodes) or '-'}")
    profile = _profile_to_plan(args, context, desired, nodes)
    labels = nodes[profile.node].spec.labels if profile.node in nodes else {}
    policy = _with_autonomy(_policy(args, context, desired, labels), args.autonomy, recording=bool(args.record))
    status = NodeStatus(profile=profile, kernel=profile.kernel, topology=profile.topology)
    seen = NodeScheduler(metadata=ObjectMeta(name="profiled"), status=status)
    intents = counted_intents(desired, seen)
    if not intents:
        raise InputError(
            f"no plan: none of the {len(desired.intents)} intents matches a task of the profile",
            remedy="`schedctl observe` shows what ran; compare the selectors",
        )
    templates = allowed_templates(policy, desired)
    bridge = _bridge(args, context)
    if args.planner and bridge is None:
        plan.insist(policy)
    known, past = None, plan.Past()
    if not args.no_recall and bridge is None:
        from controller.cli.recalling import remembered

        known, past = remembered(context, store, desired, seen, policy, intents, templates, recording=bool(args.record))
    with _measuring(policy, seen, templates, context) as bench:
        if args.record:
            from controller.cli.campaign import recorded
            from controller.reconcile.drafts import desk_for

            desk = desk_for(policy, desired)
            campaign = Campaign(profile, intents, policy, templates, past, bench=bench, desk=desk)
            proposal = recorded(args, context, campaign, bridge)
        else:
            proposal = known or plan.propose(profile, intents, policy, templates, past, transport=bridge, bench=bench)
    context.out(structured(proposal.wire(), args.output))
    return 0


def _measuring(
    policy: SchedulerPolicy, seen: NodeScheduler, templates: Sequence[SchedulerTemplate], context: Context
) -> AbstractContextManager[Bench | None]:
    """What measures for mode search: a guest of this kernel, if there is an image of it. Nothing for other modes."""
    from controller.reconcile.keys import target_of
    from controller.reconcile.questions import bench_for

    target = target_of(seen)
    if policy.spec.planner.mode != "search" or target is None:
        return nullcontext(None)
    return bench_for(policy, target, templates, context.reporter)


def _bridge(args: Namespace, context: Context) -> Bridge | None:
    """The file bridge, if it is asked for."""
    if args.bridge is None:
        return None
    from controller.api import parse_duration
    from controller.plan.bridge import Bridge

    try:
        wait_s = parse_duration(args.bridge_wait) / 1e9
    except ValueError as error:
        raise InputError(f'invalid --bridge-wait "{args.bridge_wait}"', remedy=f"it {error}") from None
    context.warn(f"Questions come to {args.bridge}: answer each by its .answer.json within {args.bridge_wait}")
    return Bridge(Path(args.bridge), patience_s=wait_s)


_AUTONOMY = ("parameters", "expressions", "template")


def _with_autonomy(policy: SchedulerPolicy, wanted: str | None, *, recording: bool = False) -> SchedulerPolicy:
    """The policy with less freedom for the planner. InputError for more than it allows."""
    if wanted is None:
        return policy
    if wanted not in _AUTONOMY:
        raise InputError(f'unknown autonomy "{wanted}"', remedy=f"one of {', '.join(_AUTONOMY)}")
    if wanted == "template" and not recording:
        raise InputError("a new template is kept in a bundle only", remedy="add --record DIR")
    planner = policy.spec.planner
    if _AUTONOMY.index(wanted) > _AUTONOMY.index(planner.autonomy):
        raise InputError(
            f"policy {policy.name} allows a planner to change {planner.autonomy} only, not {wanted}",
            remedy="raise spec.planner.autonomy in the policy",
        )
    spec = policy.spec.model_copy(update={"planner": planner.model_copy(update={"autonomy": wanted})})
    return policy.model_copy(update={"spec": spec})


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
    return take(args, context, desired.intents)


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
    desired = desired_if_any(args, context)
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


PLAN = Verb(
    run=_plan,
    arguments=_plan_arguments,
    usage="[-f PROFILE | --node NODE] [--planner rules] [--record BUNDLE] [-o json]\n  schedctl plan --replay BUNDLE",
    details="--replay needs neither key nor network. Exit code: 0 the same in every byte, 1 something differs, "
    "2 not all could be told here.",
)
RENDER = Verb(run=_render, arguments=_render_arguments, usage="-f PROPOSAL")
