# SPDX-License-Identifier: Apache-2.0
"""`schedctl passport show|verify`: what a passport says, and whether it may be believed.

A passport is a file (or `-`), or the one of a committed revision, whose bytes then come from the object database. What
was not at hand to compare with is said to be skipped: exit 0 means that nothing that was looked at was refused, 1 that
something was, 2 that it could not be told.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from controller.cli.command import Parser, UsageError, Verb, not_found
from controller.cli.context import Context
from controller.cli.files import read_bytes
from controller.cli.output import structured
from controller.cli.text import one_line, table
from controller.cli.verify import evidence_folder, report
from controller.errors import InputError, SchedctlError, TrustError

if TYPE_CHECKING:
    from controller.api import SchedulerRevision
    from controller.trust.inspection import Check

_ENVELOPE = 8 << 20
_FILE = 64 << 20
_BTF = "sha256:"


@dataclass
class _Found:
    """An envelope, what it is called, and what lies beside it."""

    name: str
    envelope: bytes
    digests: dict[str, str] = field(default_factory=dict)
    evidence: dict[str, bytes] | None = None
    refusal: str = ""


def _show_arguments(parser: Parser) -> None:
    parser.add_argument("what", nargs="*", metavar="FILE|REVISION|-")
    parser.output("table", "json", "yaml")


def _show(args: Namespace, context: Context) -> int:
    from controller.trust import dsse, keys

    found = _find(args, context)
    try:
        passport = dsse.verify(found.envelope, keys.list_trusted())
    except TrustError as error:
        passport = dsse.claimed(found.envelope)
        context.warn(f"Warning: this passport is not to be believed: {one_line(str(error))}")
    if args.output == "table":
        context.out(report(passport, found.name))
    else:
        context.out(structured(passport.wire(), args.output))
    return 0


def _verify_arguments(parser: Parser) -> None:
    parser.add_argument("what", nargs="*", metavar="FILE|REVISION|-")
    parser.add_argument("--object", metavar="FILE", help="the .bpf.o that it is for")
    parser.add_argument("--source", metavar="FILE", help="the .bpf.c that it is for")
    parser.add_argument("--evidence", metavar="DIR", help="its evidence files (default: FILE.evidence)")
    parser.add_argument("--recompute", action="store_true", help="reckon the trial's verdict anew from its samples")
    parser.add_argument("--kernel-btf", metavar="DIGEST", default="", help="a kernel's BTF digest, or node: this one's")
    parser.add_argument("--topology", metavar="CLASS", default="", help="a topology class (default: this machine's)")
    parser.output("table", "json", "yaml")


def _verify(args: Namespace, context: Context) -> int:
    from controller.trust import keys
    from controller.trust.inspection import Check, Given, inspect

    found = _find(args, context)
    _add_files(found, args, context)
    btf, topology = _kernel(args)
    given = Given(context.now(), found.digests, found.evidence, btf, topology)
    passport, checks = inspect(found.envelope, keys.list_trusted(), given)
    if found.refusal:
        checks = (*checks, Check("revision", "refused", found.refusal))
    if args.recompute and passport is not None:
        from controller.verify.recheck import recheck

        checks = (*checks, *(Check(*told) for told in recheck(passport, found.evidence or {})))
    _print(found.name, checks, args, context)
    if any(check.result == "refused" for check in checks):
        return 1
    return 2 if args.recompute and not any(c.what.startswith("trial ") and c.result == "ok" for c in checks) else 0


def _print(name: str, checks: tuple[Check, ...], args: Namespace, context: Context) -> None:
    if args.output != "table":
        items = [{"check": c.what, "result": c.result, "detail": c.detail} for c in checks]
        context.out(structured({"checks": items}, args.output))
        return
    context.out(table(["CHECK", "RESULT", "DETAIL"], [[c.what, c.result, one_line(c.detail)] for c in checks]))
    refused = [check.what for check in checks if check.result == "refused"]
    context.out(f"\n{name}: {'refused: ' + ', '.join(refused) if refused else 'valid in all that was checked'}")


def _find(args: Namespace, context: Context) -> _Found:
    """The envelope that is meant. A file wins over a revision of the same name."""
    if len(args.what) != 1:
        raise UsageError("name one passport: a FILE, a committed REVISION, or - for stdin")
    what: str = args.what[0]
    if what == "-" or Path(what).is_file():
        return _Found("STDIN" if what == "-" else what, read_bytes(what, context, limit=_ENVELOPE))
    if Path(what).exists() or what.endswith(".json"):
        return _Found(what, read_bytes(what, context, limit=_ENVELOPE))  # says what is wrong with it
    return _of_revision(what.rpartition("/")[2], args, context)


def _of_revision(name: str, args: Namespace, context: Context) -> _Found:
    """The passport of a committed revision, held against the manifest and the files as they are committed."""
    from controller.api import sha256
    from controller.deploy import prove

    store = context.store(args)
    desired = context.desired(store)
    revision = next((r for r in desired.revisions if r.name == name), None)
    if revision is None:
        raise not_found("schedulerrevisions.schedctl.dev", name)
    files = store.revision_bytes(revision, desired.commit)
    found = _Found(f"revision {name}", files.passport, evidence=store.evidence(revision, desired.commit))
    found.digests = {"object": sha256(files.object), "source": sha256(files.source), **_in_manifest(revision)}
    try:
        prove(revision, files)
    except TrustError as error:
        found.refusal = str(error)
    return found


def _in_manifest(revision: SchedulerRevision) -> dict[str, str]:
    proposal = revision.spec.proposal
    return {"template": proposal.template_digest, "proposal": proposal.content_digest()}


def _add_files(found: _Found, args: Namespace, context: Context) -> None:
    from controller.api import sha256

    for part in ("object", "source"):
        path = getattr(args, part)
        if path:
            found.digests[part] = sha256(read_bytes(path, context, limit=_FILE))
    folder = Path(args.evidence) if args.evidence else evidence_folder(Path(found.name))
    if args.evidence and not folder.is_dir():
        raise InputError(f'the folder "{folder}" does not exist')
    if found.evidence is None and folder.is_dir():
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        found.evidence = {path.name: read_bytes(str(path), context, limit=_FILE) for path in files}


def _kernel(args: Namespace) -> tuple[str, str]:
    """BTF digest and topology class to compare with; both empty when no kernel was named."""
    if not args.kernel_btf:
        if args.topology:
            raise UsageError("--topology goes with --kernel-btf")
        return "", ""
    from controller.kernel import nodefacts

    btf = args.kernel_btf
    if btf == "node":
        btf = nodefacts.kernel().btf_digest or ""
        if not btf:
            raise _NoBtf("this machine's kernel has no BTF", remedy="name a digest: --kernel-btf sha256:...")
    elif not btf.startswith(_BTF):
        raise UsageError(f'invalid argument "{btf}" for "--kernel-btf" flag: must be node or sha256:...')
    return btf, args.topology or nodefacts.node_topology().topology_class


class _NoBtf(SchedctlError):
    """There is nothing to compare with."""


SHOW = Verb(run=_show, arguments=_show_arguments, usage="FILE|REVISION|- [-o json|yaml]")
VERIFY = Verb(
    run=_verify,
    arguments=_verify_arguments,
    usage="FILE|REVISION|- [--object FILE] [--source FILE] [--evidence DIR] [--recompute] [--kernel-btf DIGEST|node]",
    details="Exit code: 0 nothing was refused, 1 something was, 2 could not tell.",
    failure=2,
)
