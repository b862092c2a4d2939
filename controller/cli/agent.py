# SPDX-License-Identifier: Apache-2.0
"""`schedctl agent run` and `schedctl eject`."""

from __future__ import annotations

import os
import re
from argparse import Namespace

from controller.cli.command import Parser, Verb
from controller.cli.context import Context
from controller.cli.wait import seconds
from controller.errors import InputError

_ROLES = ("node", "planner", "all")


def _run_arguments(parser: Parser) -> None:
    parser.add_argument("--role", metavar="ROLE", default="all", help="node, planner, or all (default: all)")
    parser.add_argument("--once", action="store_true", help="end when there is nothing left to do now")
    parser.add_argument("--node-name", metavar="NAME", default="", help="default: this machine's name")
    parser.add_argument("--label", metavar="KEY=VALUE", action="append", default=[], help="a label of this node")
    parser.add_argument("--interval", metavar="TIME", default="10s", help="look again after this time (default: 10s)")
    parser.add_argument("--observe", metavar="TIME", default="5s", help="length of a profile (default: 5s)")
    parser.add_argument(
        "--observe-every", metavar="TIME", default="60s", help="begin a profile this often (default: 60s)"
    )
    parser.add_argument("--procfs", action="store_true", help="profile from /proc: no bcc, no compiler on the node")


def _run(args: Namespace, context: Context) -> int:
    if args.role not in _ROLES:
        raise InputError(f'invalid argument "{args.role}" for "--role" flag: must be one of {", ".join(_ROLES)}')
    times = {flag: _positive(getattr(args, flag), f"--{flag.replace('_', '-')}") for flag in _TIMES}
    labels = dict(_label(pair) for pair in args.label)
    from controller.paths import state_dir
    from controller.reconcile import agent

    return agent.run(
        lambda: context.store(args, state=state_dir()),
        role=args.role,
        node_name=args.node_name or node_name(),
        labels={"kubernetes.io/hostname": args.node_name or node_name(), **labels},
        once=args.once,
        interval_s=times["interval"],
        observe_s=times["observe"],
        observe_every_s=times["observe_every"],
        force_procfs=args.procfs,
        reporter=context.log,
    )


_TIMES = ("interval", "observe", "observe_every")


def _positive(text: str, flag: str) -> float:
    value = seconds(text, flag)
    if value <= 0:
        raise InputError(f'invalid argument "{text}" for "{flag}" flag: must be above 0')
    return value


def node_name() -> str:
    """The machine's name as an object name: lower case, and nothing that a name may not have."""
    name = re.sub(r"[^a-z0-9.-]+", "-", os.uname().nodename.lower()).strip(".-")
    if not name:
        raise InputError("this machine has no usable name", remedy="give one with --node-name NAME")
    return name


def _label(pair: str) -> tuple[str, str]:
    key, sign, value = pair.partition("=")
    if not sign or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./-]*", key):
        raise InputError(f'invalid label "{pair}"', remedy="use --label KEY=VALUE")
    return key, value


def _eject_arguments(parser: Parser) -> None:
    parser.add_argument("--reason", metavar="TEXT", default="schedctl eject", help="kept beside the hold")
    parser.add_argument("--release", action="store_true", help="lift the hold: the agent converges again")


def _eject(args: Namespace, context: Context) -> int:
    # No repository, key or planner is touched here: this must work when all of them are broken.
    from controller.deploy.eject import eject, release
    from controller.paths import state_dir

    if args.release:
        held = release(state_dir())
        context.out("eject released" if held else "eject was not in force")
        return 0
    before = eject(state_dir(), reason=args.reason)
    context.out(f"scheduler/{before} ejected" if before else "no sched_ext scheduler was attached; held")
    context.reporter.done("this node stays on the kernel's own scheduler until `schedctl eject --release`")
    return 0


AGENT_RUN = Verb(run=_run, arguments=_run_arguments, usage="[--role node|planner|all] [--once] [--label KEY=VALUE]...")
EJECT = Verb(run=_eject, arguments=_eject_arguments, usage="[--reason TEXT] | --release")
