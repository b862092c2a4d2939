# SPDX-License-Identifier: Apache-2.0
"""What concerns this machine and not the policy: `doctor`, `kernel`, `key`, `crd`, `version`."""

from __future__ import annotations

import platform
from argparse import Namespace
from pathlib import Path

from controller import __version__
from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.cli.text import table
from controller.errors import InputError, TrustError


def _doctor_arguments(parser: Parser) -> None:
    parser.output("table", "wide", "json", "yaml")


def _doctor(args: Namespace, context: Context) -> int:
    from controller.kernel.tools import check_all

    context.reporter.step("checking what this machine has")
    findings = check_all()
    if args.output in ("json", "yaml"):
        from dataclasses import asdict

        from controller.cli.output import structured

        context.out(structured({"checks": [{"status": f.status, **asdict(f)} for f in findings]}, args.output))
    else:
        wide = args.output == "wide"
        header = ["NAME", "STATUS", "FOUND", "NEED", *["WHY"] * wide, "REMEDY"]
        rows = [[f.name, f.status, f.found, f.need, *[f.why] * wide, f.remedy] for f in findings]
        context.out(table(header, rows))
    missing = [finding.name for finding in findings if finding.status == "Missing"]
    if missing:
        context.stdout.flush()
        context.warn(f"error: missing: {', '.join(missing)} (run the remedies above, or `make setup`)")
    return 1 if missing else 0


def _kernel_list(args: Namespace, context: Context) -> int:
    from controller.kernel import images

    found = images.list_images()
    answer = {True: "yes", False: "no", None: "unknown"}
    if args.output != "table":
        from controller.cli.output import structured

        items = [
            {"release": i.release, "source": i.source, "schedExt": answer[i.has_sched_ext], "path": str(i.path)}
            for i in found
        ]
        context.out(structured({"kernels": items}, args.output))
    elif not found:
        context.warn("No kernel images found: fetch one with `schedctl kernel pull newest`")
    else:
        rows = [[i.release, i.source, answer[i.has_sched_ext], str(i.path)] for i in found]
        context.out(table(["RELEASE", "SOURCE", "SCHED_EXT", "PATH"], rows))
    return 0


def _kernel_pull_arguments(parser: Parser) -> None:
    parser.add_argument("which", nargs="*", metavar="newest|oldest|PATTERN", help="default: newest")


def _kernel_pull(args: Namespace, context: Context) -> int:
    from controller.kernel import images

    for which in args.which or ["newest"]:
        context.reporter.step(f"fetching kernel {which}")
        image = images.pull(which)
        context.out(f"kernel/{image.release} pulled")
    return 0


def _kernel_warm(args: Namespace, context: Context) -> int:
    from controller.kernel import images
    from controller.kernel.microvm import boot
    from controller.verify.baselines import warm

    for which in args.which or ["newest"]:
        image = images.resolve(which)
        context.reporter.step(f"booting {image.release}, and measuring its own scheduler")
        kept = warm(lambda image=image: boot(image.path), context.reporter)  # type: ignore[misc]
        context.out(f"kernel/{image.release} {'warmed' if kept else 'boots anew each time: nothing to keep'}")
    return 0


def _key_generate(_: Namespace, context: Context) -> int:
    from controller.trust import keys

    path = keys.signing_key_path()
    if path.exists() or path.is_symlink():
        raise TrustError(
            f"making a signing key: {path} exists already", remedy=f"move it away first: mv {path} {path}.old"
        )
    key = keys.ensure_signing_key()
    context.out(f"key/{key.keyid[:16]} generated")
    context.reporter.done(f"other machines trust it with `schedctl key trust FILE.pub`: see {keys.trusted_dir()}")
    return 0


def _key_trust_arguments(parser: Parser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE.pub")


def _key_trust(args: Namespace, context: Context) -> int:
    from controller.trust import keys

    if not args.files:
        raise UsageError("name the public key files to trust")
    for file in args.files:
        if not Path(file).exists():
            raise InputError(f'the path "{file}" does not exist')
        key = keys.trust(Path(file))
        context.out(f"key/{key.keyid[:16]} trusted")
    return 0


def _key_list(args: Namespace, context: Context) -> int:
    from controller.trust import keys

    signing = keys.load_signing_key().keyid if keys.signing_key_path().exists() else ""
    trusted = keys.list_trusted()
    if args.output != "table":
        from controller.cli.output import structured

        items = [{"keyid": key.keyid, "name": key.name, "signsHere": key.keyid == signing} for key in trusted]
        context.out(structured({"keys": items}, args.output))
    elif not trusted:
        context.warn("No keys are trusted here: the first `schedctl agent run` that plans makes one")
    else:
        rows = [[key.name, "yes" if key.keyid == signing else "no", key.keyid] for key in trusted]
        context.out(table(["NAME", "SIGNS HERE", "KEYID"], rows))
    return 0


def _listing(parser: Parser) -> None:
    parser.output("table", "json", "yaml")


def _crd_arguments(parser: Parser) -> None:
    parser.add_argument("--dir", metavar="DIR", default="crds", help="the folder to write into (default: crds)")


def _crd_generate(args: Namespace, context: Context) -> int:
    from controller.api import crd

    folder = Path(args.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in crd.generate().items():
            file = folder / name
            same = file.exists() and file.read_text(encoding="utf-8") == text
            if not same:
                file.write_text(text, encoding="utf-8")
            context.out(f"{file} {'unchanged' if same else 'generated'}")
    except OSError as error:
        raise InputError(f'cannot write into "{folder}": {error.strerror}') from None
    return 0


def _version_arguments(parser: Parser) -> None:
    parser.output("text", "json", "yaml")


def _version(args: Namespace, context: Context) -> int:
    facts = {"version": __version__, "pythonVersion": platform.python_version(), "platform": platform.machine()}
    if args.output == "text":
        context.out(f"schedctl {__version__}")
    elif args.output == "json":
        import json

        context.out(json.dumps(facts, indent=4))
    else:
        context.out("".join(f"{key}: {value}\n" for key, value in facts.items()))
    return 0


DOCTOR = Verb(run=_doctor, arguments=_doctor_arguments, usage="[-o wide|json|yaml]")
KERNEL_LIST = Verb(run=_kernel_list, arguments=_listing)
KERNEL_PULL = Verb(run=_kernel_pull, arguments=_kernel_pull_arguments, usage="[newest|oldest|PATTERN]...")
KERNEL_WARM = Verb(run=_kernel_warm, arguments=_kernel_pull_arguments, usage="[newest|oldest|PATTERN]...")
KEY_GENERATE = Verb(run=_key_generate)
KEY_TRUST = Verb(run=_key_trust, arguments=_key_trust_arguments, usage="FILE.pub...")
KEY_LIST = Verb(run=_key_list, arguments=_listing)
CRD_GENERATE = Verb(run=_crd_generate, arguments=_crd_arguments, usage="[--dir crds]")
VERSION = Verb(run=_version, arguments=_version_arguments, usage="[-o json|yaml]")
