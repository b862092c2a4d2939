# SPDX-License-Identifier: Apache-2.0
"""`schedctl`: finds the verb, runs it, and turns whatever happens into words and an exit code.

Only the module of the verb that was asked for is imported, so that `schedctl version` and shell completion answer at
once. A verb raises what it cannot do (controller.errors); this module alone prints errors: one `error: …` line with
its remedy, never a traceback, unless SCHEDCTL_DEBUG=1 asks for one.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

from controller import apikey
from controller.cli.command import Parser, UsageError, Verb, error_text
from controller.cli.context import Context
from controller.cli.text import printable, suggestion
from controller.errors import InputError, SchedctlError

INTERRUPTED = 130
BROKEN_PIPE = 141


@dataclass(frozen=True)
class Entry:
    """Where a verb lives: `module` of controller.cli, the `Verb` called `name` in it, and what it does."""

    module: str
    name: str
    summary: str


SECTIONS: dict[str, dict[str, Entry]] = {
    "Resources": {
        "init": Entry("edit", "INIT", "Start a policy repository from the sample"),
        "apply": Entry("edit", "APPLY", "Validate manifests and commit them"),
        "get": Entry("read", "GET", "Show resources"),
        "describe": Entry("describe", "DESCRIBE", "Show one resource with its conditions and events"),
        "delete": Entry("edit", "DELETE", "Delete resources, in one commit"),
        "diff": Entry("diff", "DIFF", "Compare what is committed with files, or with what is attached"),
        "explain": Entry("explain", "EXPLAIN", "Say what a kind, a field or a lint rule means"),
        "wait": Entry("wait", "WAIT", "Wait for a condition of a resource"),
    },
    "Schedulers": {
        "observe": Entry("observe", "OBSERVE", "Profile what runs on this machine"),
        "observe diff": Entry("observe", "DIFF", "Say what changed from one profile to another"),
        "observe twin": Entry("twin", "TWIN", "Make a load of a profile that rt-app can run"),
        "observe schema": Entry("observe", "SCHEMA", "Print the JSON Schema of a profile"),
        "plan": Entry("pipeline", "PLAN", "Propose a scheduler for a profile and the committed intents"),
        "search": Entry("search", "SEARCH", "Find revisions that worked, by intent, metric, text or a recorded load"),
        "budget": Entry("budget", "BUDGET", "Show what planning cost, and what the policies allow"),
        "render": Entry("pipeline", "RENDER", "Print the C of a proposal"),
        "verify": Entry("verify", "VERIFY", "Put a scheduler through every stage on real kernels"),
        "passport show": Entry("passport", "SHOW", "Show what a passport says, stage by stage"),
        "passport verify": Entry("passport", "VERIFY", "Hold a passport against keys, files, a kernel and the clock"),
    },
    "Nodes": {
        "top": Entry("top", "TOP", "Watch workloads, their latency and the scheduler, live"),
        "status": Entry("nodes", "STATUS", "Show what every node runs"),
        "events": Entry("nodes", "EVENTS", "Show what happened on the nodes"),
        "agent run": Entry("agent", "AGENT_RUN", "Run the loop that converges this node"),
        "eject": Entry("agent", "EJECT", "Go back to the kernel's own scheduler now, and stay there"),
        "node start": Entry("nodevm", "START", "Start a micro-VM that is a node"),
        "node stop": Entry("nodevm", "STOP", "Stop a node VM"),
        "node exec": Entry("nodevm", "EXEC", "Run a command in a node VM"),
        "node list": Entry("nodevm", "LIST", "Show the node VMs of this machine"),
    },
    "This machine": {
        "doctor": Entry("machine", "DOCTOR", "Say what is missing here, and the command that mends it"),
        "kernel list": Entry("machine", "KERNEL_LIST", "Show the kernel images to verify against"),
        "kernel pull": Entry("machine", "KERNEL_PULL", "Fetch a kernel image"),
        "kernel warm": Entry("machine", "KERNEL_WARM", "Prepare a kernel: verify then starts from there"),
        "key generate": Entry("machine", "KEY_GENERATE", "Make this machine's signing key"),
        "key trust": Entry("machine", "KEY_TRUST", "Believe passports signed by a key"),
        "key list": Entry("machine", "KEY_LIST", "Show the keys whose passports are believed here"),
        "crd generate": Entry("machine", "CRD_GENERATE", "Write the CustomResourceDefinitions"),
        "completion": Entry("completion", "COMPLETION", "Print a completion script for bash or zsh"),
        "version": Entry("machine", "VERSION", "Print the version"),
    },
}
VERBS: dict[str, Entry] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
GROUPS = sorted({name.split()[0] for name in VERBS if " " in name})
# Flags that may stand before the verb, as kubectl allows; True: the next word is the flag's value.
_GLOBAL = {"--repo": True, "-n": True, "--namespace": True, "-o": True, "--output": True, "-A": False}


def main(argv: Sequence[str] | None = None, context: Context | None = None) -> int:
    """Run one command line; returns the exit code. 0 done, 1 the user's or the candidate's fault, 2 could not tell."""
    for stream in (sys.stdout, sys.stderr) if context is None else ():
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    context = context or Context()
    apikey.hold()  # before anything is started that would inherit it
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words, context)
        context.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return 2 if "verify" in words else INTERRUPTED  # before it could handle signals: there is no verdict
    except SchedctlError as error:
        _flush(context)
        context.warn(error_text(error))
        if context.environ.get("SCHEDCTL_DEBUG") == "1":
            context.warn(traceback.format_exc())
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort: a bug must not look like the user's mistake
        _flush(context)
        context.warn(f"error: this is a bug in schedctl: {type(error).__name__}: {printable(str(error)) or '-'}")
        if context.environ.get("SCHEDCTL_DEBUG") == "1":
            context.warn(traceback.format_exc())
        else:
            context.warn("Run it again with SCHEDCTL_DEBUG=1 for the traceback, and report that.")
        return 2
    return code


def _run(argv: list[str], context: Context) -> int:
    before, words = _split(argv)
    if not words or words[0] in ("-h", "--help", "help"):
        return _help(words[1:], context)
    name, rest = _find(words)
    if name in GROUPS and name not in VERBS:
        context.out(_group_help(name))
        return 0
    entry = VERBS[name]
    verb: Verb = getattr(import_module(f"controller.cli.{entry.module}"), entry.name)
    parser = Parser(name, entry.summary, verb)
    try:
        args = parser.parse([*before, *rest])
        args.verb = name
        if args.help:
            context.out(parser.format_help() + (f"\n{_commands(name)}" if name in GROUPS else ""))
            return 0
        return verb.run(args, context)
    except UsageError as error:
        text = f"{error.message}\nSee 'schedctl {name} --help' for usage."
        raise _at_least(UsageError(text, remedy=error.remedy), verb.failure) from None
    except SchedctlError as error:
        raise _at_least(error, verb.failure) from None


def _at_least(error: SchedctlError, code: int) -> SchedctlError:
    error.exit_code = max(error.exit_code, code)
    return error


def _split(argv: list[str]) -> tuple[list[str], list[str]]:
    """The flags that stand before the verb, and the rest."""
    at = 0
    while at < len(argv) and argv[at].partition("=")[0] in _GLOBAL:
        at += 2 if _GLOBAL[argv[at].partition("=")[0]] and "=" not in argv[at] else 1
    if at < len(argv) and argv[at] == "--version":
        return argv[:at], ["version"]
    if at < len(argv) and argv[at].startswith("-") and argv[at] not in ("-h", "--help"):
        raise UsageError(f"unknown flag: {argv[at]}\nSee 'schedctl --help' for usage.")
    return argv[:at], argv[at:]


def _find(words: list[str]) -> tuple[str, list[str]]:
    """The verb's full name and its own words. InputError if there is no such verb."""
    first = words[0]
    if " ".join(words[:2]) in VERBS:
        return " ".join(words[:2]), words[2:]
    if first in VERBS:
        return first, words[1:]
    if first not in GROUPS:
        known = [name.split()[0] for name in VERBS]
        raise InputError(f'unknown command "{printable(first)}" for "schedctl"{suggestion(first, known)}')
    second = words[1] if len(words) > 1 else "--help"
    if second in ("-h", "--help"):
        return first, []
    known = [name.split()[1] for name in VERBS if name.startswith(f"{first} ")]
    raise InputError(f'unknown command "{printable(second)}" for "schedctl {first}"{suggestion(second, known)}')


def _help(words: list[str], context: Context) -> int:
    if words and words[0] not in ("-h", "--help"):
        return _run([*words, "--help"], context)
    lines = ["schedctl converges the CPU scheduler of Linux machines to what is committed in Git."]
    for title, verbs in SECTIONS.items():
        lines += ["", f"{title}:", *(f"  {name:<15} {entry.summary}" for name, entry in verbs.items())]
    lines += ["", "Usage:", "  schedctl VERB [flags]", "", "Use `schedctl VERB --help` for a verb's flags."]
    context.out("\n".join(lines))
    return 0


def _group_help(group: str) -> str:
    return "\n".join([_commands(group), "", "Usage:", f"  schedctl {group} COMMAND [flags]"])


def _commands(group: str) -> str:
    verbs = {name: entry for name, entry in VERBS.items() if name.startswith(f"{group} ")}
    return "\n".join(["Commands:", *(f"  {name:<15} {entry.summary}" for name, entry in verbs.items())])


def _flush(context: Context) -> None:
    """Data that was printed before an error comes before the error."""
    try:
        context.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()


def _silence_stdout() -> None:
    """The reader has gone: what Python still holds for it is not worth a second complaint at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
