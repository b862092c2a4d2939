# SPDX-License-Identifier: Apache-2.0
"""`schedctl plan --record` and `--replay`: a plan with all that went into it, and the same plan made again.

Recording goes as far as can be gone without a guest: planned, rendered, linted, compiled, audited. The planner's agent
records whole campaigns, guests and trial included, in its state folder; both are replayed alike.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.command import UsageError
from controller.cli.context import Context
from controller.cli.output import structured
from controller.cli.text import one_line, table
from controller.errors import InputError

if TYPE_CHECKING:
    from controller.api import Proposal
    from controller.plan.transport import Transport
    from controller.reconcile.record import Campaign


def recorded(args: Namespace, context: Context, campaign: Campaign, transport: Transport | None = None) -> Proposal:
    """Plan, and write the campaign as a new bundle; also when nothing is proposed, which is raised then."""
    from controller import verify
    from controller.api import fingerprint_of
    from controller.reconcile import bundle
    from controller.reconcile.drafts import FOLDER, STATIC

    folder = Path(args.record)
    if folder.exists():
        raise InputError(f'"{folder}" exists already', remedy="name a folder that is not there yet")
    try:
        proposal = campaign.propose(transport=transport)
        template = next(t for t in campaign.templates if t.name == proposal.template)
        names = (i.qualified_name for i in campaign.intents)
        campaign.examined(
            verify.examine(
                verify.Candidate.from_proposal(proposal, template),
                stages=STATIC,
                workload=fingerprint_of(campaign.profile, names),
                reporter=context.reporter,
            )
        )
    finally:
        if campaign.proposal is not None or campaign.error:
            context.warn(f"recorded {bundle.write(campaign.files(), folder)} in {folder}")
        if campaign.desk is not None and campaign.desk.draft is not None:
            context.warn(f"A new template was drafted: review {folder / FOLDER}, nothing uses it")
    return proposal


def replayed(args: Namespace, context: Context) -> int:
    """Make a campaign again: its proposal on stdout, what was compared on stderr; the exit code says how it went."""
    from controller.reconcile import bundle
    from controller.reconcile.replay import replay

    if args.filename or args.node or args.record or args.planner or args.policy:
        raise UsageError("--replay takes everything from the bundle: no other flag but -o goes with it")
    found = bundle.read(bundle.find(args.replay))
    result = replay(found)
    if result.proposal is not None:
        context.out(structured(result.proposal.wire(), args.output))
        context.stdout.flush()
    rows = [[c.what, c.result, one_line(c.detail)] for c in result.checks]
    context.warn(table(["CHECK", "RESULT", "DETAIL"], rows).rstrip("\n"))
    differing = [c.what for c in result.checks if c.result == "differs"]
    # Another version alone is no reason for doubt: whatever it changes is seen in what is compared.
    untold = [c.what for c in result.checks if c.result == "skipped" and c.what != "version"]
    if differing:
        context.warn(f"{found.digest} differs: {', '.join(differing)}")
        return 1
    if untold:
        context.warn(f"{found.digest} is the same in all that could be told; not told: {', '.join(untold)}")
        return 2
    context.warn(f"{found.digest} is the same in every byte")
    return 0
