# SPDX-License-Identifier: Apache-2.0
"""`schedctl node …`: micro-VMs that are nodes, for machines whose own kernel has no sched_ext."""

from __future__ import annotations

import re
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path

from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.cli.output import structured
from controller.cli.text import age, table
from controller.cli.wait import seconds
from controller.errors import InputError


def _start_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", default="node1", metavar="NAME", help="default: node1")
    parser.add_argument("--kernel", metavar="IMAGE", default="newest", help="newest, oldest, node, a release or a path")
    parser.add_argument("--cpus", type=int, default=2, metavar="N", help="virtual CPUs (default: 2)")
    parser.add_argument("--memory", metavar="SIZE", default="1536Mi", help="default: 1536Mi")
    parser.add_argument("--share", metavar="DIR", action="append", default=[], help="writable there, at the same path")


def _start(args: Namespace, context: Context) -> int:
    from controller.kernel import images, nodevm

    repository = context.repository(args).resolve()
    shares = [Path(share).resolve() for share in args.share]
    env: dict[str, str] = {}
    if _is_repository(repository):
        shares += [repository] if repository not in shares else []
        env["SCHEDCTL_REPO"] = str(repository)
    elif args.repo or context.environ.get("SCHEDCTL_REPO"):
        raise InputError(f"{repository} is not a policy repository", remedy=f"schedctl init {repository}")
    memory = _mebibytes(args.memory)
    report = context.reporter
    node = nodevm.start(
        args.name,
        kernel=images.resolve(args.kernel),
        cpus=args.cpus,
        memory_mib=memory,
        shares=shares,
        env=env,
        reporter=report.step,
    )
    report.done(f"{node.name} runs {node.kernel}")
    context.out(f"node/{node.name} started")
    return 0


def _is_repository(path: Path) -> bool:
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def _mebibytes(size: str) -> int:
    match = re.fullmatch(r"(\d+)(Mi|Gi)?", size)
    if match is None:
        raise InputError(f'invalid argument "{size}" for "--memory" flag: must be such as 1536Mi or 2Gi')
    return int(match[1]) * (1024 if match[2] == "Gi" else 1)


def _stop_arguments(parser: Parser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every node VM of this machine")


def _stop(args: Namespace, context: Context) -> int:
    from controller.kernel import nodevm

    if bool(args.names) == args.all:
        raise UsageError("name the node VMs to stop, or use --all")
    nodes = nodevm.list_nodes() if args.all else [nodevm.get(name) for name in args.names]
    for node in nodes:
        node.stop()
        context.out(f"node/{node.name} stopped")
    return 0


def _exec_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="NAME")
    parser.add_argument("-i", "--stdin", action="store_true", help="pass standard input to the command")
    parser.add_argument("--timeout", metavar="TIME", default="", help="end the command after this time")
    parser.add_argument("-d", "--detach", action="store_true", help="let it go on; print its pid there")
    parser.add_argument(
        "--log", metavar="FILE", default="/dev/null", help="with --detach: its output goes to FILE there"
    )


def _exec(args: Namespace, context: Context) -> int:
    from controller.kernel import nodevm

    if not args.name:
        raise UsageError("node VM name required")
    if not args.rest:
        raise UsageError("you must specify at least one command for the node VM, after --")
    if args.detach and (args.stdin or args.timeout):
        raise UsageError("--detach goes with neither --stdin nor --timeout")
    timeout = seconds(args.timeout, "--timeout") if args.timeout else None
    node = nodevm.get(args.name)
    if args.detach:
        context.out(str(node.spawn(args.rest, log=args.log)))
        return 0
    stdin = context.stdin.read() if args.stdin else None
    done = node.exec(args.rest, timeout_s=timeout, stdin=stdin, stdout=context.out_bytes, stderr=context.err_bytes)
    return done.exit_code


def _list_arguments(parser: Parser) -> None:
    parser.output("table", "json", "yaml")
    parser.add_argument("--no-headers", action="store_true", help="no header line")


def _list(args: Namespace, context: Context) -> int:
    from controller.kernel import nodevm

    nodes = nodevm.list_nodes()
    if args.output != "table":
        items = [
            {
                "name": node.name,
                "running": node.running,
                "kernel": node.kernel,
                "cpus": node.cpus,
                "memoryMi": node.memory_mib,
                "shares": [str(share) for share in node.shares],
            }
            for node in nodes
        ]
        context.out(structured({"nodes": items}, args.output))
        return 0
    if not nodes:
        context.warn("No node VMs found")
        return 0
    rows = [
        [
            node.name,
            "Running" if node.running else "Dead",
            node.kernel,
            str(node.cpus),
            f"{node.memory_mib}Mi",
            ",".join(str(share) for share in node.shares) or "<none>",
            age(datetime.fromtimestamp(node.created, UTC), context.now()),
        ]
        for node in nodes
    ]
    header = ["NAME", "STATUS", "KERNEL", "CPUS", "MEMORY", "SHARES", "AGE"]
    context.out(table(header, rows, headers=not args.no_headers))
    return 0


START = Verb(
    run=_start,
    arguments=_start_arguments,
    usage="[NAME] [--kernel IMAGE] [--share DIR]...",
    details="The policy repository, if --repo or the current folder is one, is shared with the node,\n"
    "and SCHEDCTL_REPO points at it there.",
)
STOP = Verb(run=_stop, arguments=_stop_arguments, usage="NAME... | --all")
EXEC = Verb(
    run=_exec,
    arguments=_exec_arguments,
    usage="NAME [-i] [--timeout 60s] -- COMMAND [ARGS...]\n  schedctl node exec NAME --detach [--log FILE] -- COMMAND",
    passes_rest=True,
)
LIST = Verb(run=_list, arguments=_list_arguments)
