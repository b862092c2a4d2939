# SPDX-License-Identifier: Apache-2.0
"""`schedctl observe twin`: a profile as a load that rt-app can run, and how near it comes when it does."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.cli.observe import caveats, live, read_or_take
from controller.cli.output import structured
from controller.cli.text import one_line, table
from controller.cli.wait import seconds
from controller.errors import InputError

if TYPE_CHECKING:
    from controller.api import WorkloadProfile
    from controller.observe.twin import Fidelity

_LENGTH, _WITHIN = "5s", 0.25


def _arguments(parser: Parser) -> None:
    parser.add_argument("profile", nargs="?", metavar="PROFILE", help="a recorded profile; - is stdin; default: live")
    live(parser)
    parser.add_argument("--workload", metavar="NAME", help="this one alone; default: all but kernel threads")
    parser.add_argument(
        "--length", metavar="TIME", default=_LENGTH, help=f"for how long the twin runs (default: {_LENGTH})"
    )
    parser.add_argument("--cpus", metavar="N", type=int, help="scale it to so many CPUs (default: the profile's)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="the same seed, the same twin (default: 0)")
    parser.add_argument("--check", action="store_true", help="run it here and say how near it comes")
    parser.add_argument(
        "--within", metavar="D", type=float, default=_WITHIN,
        help=f"with --check: the distance that is near enough, 0 to 1 (default: {_WITHIN})",
    )  # fmt: skip
    parser.output("json", "yaml", "table")


def _twin(args: Namespace, context: Context) -> int:
    from controller.observe import twin

    length = seconds(args.length, "--length")
    if not 0.05 <= length <= 3600:
        raise InputError(f'invalid argument "{args.length}" for "--length" flag: must be at least 50ms and at most 1h')
    if not 0 <= args.within <= 1:
        raise InputError(f'invalid argument "{args.within}" for "--within" flag: must be from 0 to 1')
    if args.output == "table" and not args.check:
        raise UsageError("a twin is a document: -o table goes with --check")
    profile = read_or_take(args.profile, args, context)
    caveats(profile, context)
    if not args.check:
        document = twin.rtapp(profile, workload=args.workload, seed=args.seed, cpus=args.cpus, seconds=length)
        context.out(structured(document, args.output))
        return 0
    found = _checked(profile, args, length, context)
    near = found.distance <= args.within
    if args.output == "table":
        context.out(_table(found))
        context.out(f"distance {found.distance:.3f}, {'near' if near else 'not near'} enough ({args.within:g})\n")
    else:
        context.out(structured(_plain(found, args.within), args.output))
    return 0 if near else 1


def _checked(profile: WorkloadProfile, args: Namespace, length: float, context: Context) -> Fidelity:
    from controller.observe import place, twin

    with place.own_cgroup("schedctl-twin") as here:
        _, replay = twin.rehearse(
            profile, length, workload=args.workload, seed=args.seed, cpus=args.cpus,
            enter=here.enter if here is not None else (), reporter=context.reporter,
        )  # fmt: skip
        if replay.degraded:
            context.warn(f"Warning: the replay was observed with {replay.observer}: {one_line(replay.degraded)}")
        return twin.fidelity(
            profile, replay, workload=args.workload, replayed=here.workload if here is not None else None
        )


def _table(found: Fidelity) -> str:
    rows = [
        [f.workload, f.feature, _figure(f.original), _figure(f.replay), _figure(f.difference)] for f in found.features
    ]
    return table(["WORKLOAD", "FEATURE", "ORIGINAL", "REPLAY", "DIFFERENCE"], rows)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _plain(found: Fidelity, within: float) -> dict[str, object]:
    return {
        "distance": round(found.distance, 4),
        "within": within,
        "near": found.distance <= within,
        "features": [
            {
                "workload": f.workload, "feature": f.feature, "original": f.original, "replay": f.replay,
                "difference": f.difference,
            }
            for f in found.features
        ],
    }  # fmt: skip


TWIN = Verb(
    run=_twin,
    arguments=_arguments,
    usage="[PROFILE] [--workload NAME] > twin.json\n"
    "  schedctl observe twin [PROFILE] [--workload NAME] --check [-o table] [--within 0.25]",
    details="The document is rt-app's. `schedctl verify FILE --trial twin --twin twin.json` runs it in the micro-VM.\n"
    "Features are the fingerprint's: logarithms to base 2 but for shares.",
)
