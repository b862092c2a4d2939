# SPDX-License-Identifier: Apache-2.0
"""What a verb is, and an argument parser with kubectl's manners.

argparse prints usage and exits with 2 on a mistake; kubectl says one line, points at `--help` and exits with 1. Flags
may stand anywhere among the arguments, long flags are never abbreviated, and what follows `--` is the verb's own.
"""

from __future__ import annotations

import argparse
import re
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import indent
from typing import NoReturn

from controller.cli.context import Context
from controller.cli.text import printable
from controller.errors import InputError, ManifestError, SchedctlError


class UsageError(InputError):
    """A flag or argument that the verb does not know. Shown with a pointer to the verb's help."""


class ServerError(InputError):
    """What kubectl would have been told by the API server: shown as it is, without `error:` in front."""


def not_found(plural: str, name: str) -> ServerError:
    """`Error from server (NotFound): schedulingintents.schedctl.dev "web" not found`."""
    return ServerError(f'Error from server (NotFound): {plural} "{name}" not found')


def error_text(error: SchedctlError) -> str:
    """The error as kubectl words it; a manifest's place and a remedy follow in brackets."""
    if isinstance(error, ServerError):
        return printable(str(error))
    text = error.message
    notes = [error.remedy] if error.remedy else []
    if isinstance(error, ManifestError):
        text = error.text
        notes = [*_place(error), *notes]
    text = printable(text)
    if notes:
        text += ("\n" if "\n" in text else " ") + f"({printable('; '.join(notes))})"
    return text if _INVALID.match(text) else f"error: {text}"


_INVALID = re.compile(r'The \w+ ".*" is invalid: ')


def _place(error: ManifestError) -> list[str]:
    if not error.file:
        return []
    place = f"{error.file}:{error.line}" if error.line else error.file
    return [f"{place}, document {error.document}" if error.document else place]


def _no_arguments(_: Parser) -> None:
    pass


@dataclass(frozen=True)
class Verb:
    """One verb: `arguments` declares its flags, `run` does it and returns the exit code.

    `failure` is the least exit code of an error, for verbs whose 1 means something else (`diff`). `usage` follows the
    verb's name in its help. `passes_rest`: the words after `--` reach `run` as `args.rest`.
    """

    run: Callable[[Namespace, Context], int]
    arguments: Callable[[Parser], None] = _no_arguments
    usage: str = "[flags]"
    details: str = ""
    failure: int = 1
    passes_rest: bool = False


class Parser(argparse.ArgumentParser):
    """argparse with kubectl's messages. `name` is the verb as typed: `node start`."""

    def __init__(self, name: str, summary: str, verb: Verb) -> None:
        super().__init__(prog=f"schedctl {name}", add_help=False, allow_abbrev=False)
        self._summary, self._verb = summary, verb
        self.add_argument("-h", "--help", action="store_true", help="show this text")
        self.add_argument("--repo", metavar="DIR", help="the policy repository (or SCHEDCTL_REPO; default: here)")
        verb.arguments(self)

    def output(self, default: str, *formats: str) -> None:
        """Add `-o` for `default` and the other `formats`."""
        names = (default, *formats)
        self.add_argument(
            "-o", "--output", metavar="FORMAT", default=default, type=_one_of(names), help=f"one of {', '.join(names)}"
        )

    def namespaced(self) -> None:
        """Add `-n` and `-A`."""
        self.add_argument("-n", "--namespace", metavar="NS", default="default", help="the namespace (default: default)")
        self.add_argument("-A", "--all-namespaces", action="store_true", help="every namespace")

    def files(self) -> None:
        """Add `-f` (repeatable) and `-R`."""
        self.add_argument("-f", "--filename", metavar="FILE", action="append", default=[], help="file, folder or -")
        self.add_argument("-R", "--recursive", action="store_true", help="look into the folders of -f FOLDER too")

    def parse(self, words: Sequence[str]) -> Namespace:
        """The arguments. UsageError on anything the verb does not take."""
        words = list(words)
        rest: list[str] = []
        if "--" in words:
            at = words.index("--")
            words, rest = words[:at], words[at + 1 :]
        if {"-h", "--help"} & set(words):
            return Namespace(help=True)
        if not self._verb.passes_rest:
            words, rest = [*words, *rest], []
        args = self.parse_intermixed_args(words)
        args.rest = rest
        return args

    def flags(self) -> list[str]:
        """Every flag, for shell completion."""
        return sorted(flag for action in self._actions for flag in action.option_strings)

    def error(self, message: str) -> NoReturn:
        """argparse's complaint in kubectl's words."""
        raise UsageError(_reworded(message))

    def format_help(self) -> str:
        """The verb's help: what it does, how it is called, its flags."""
        formatter = argparse.HelpFormatter(prog=self.prog, max_help_position=32, width=110)
        formatter.add_arguments([a for a in self._actions if a.option_strings])
        flags = indent(formatter.format_help(), "  ")
        details = f"\n{self._verb.details.strip()}\n" if self._verb.details else ""
        return f"{self._summary}\n{details}\nUsage:\n  {self.prog} {self._verb.usage}\n\nFlags:\n{flags}"


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in names:
            allowed = ", ".join(sorted(names))
            raise UsageError(
                f'unable to match a printer suitable for the output format "{value}", allowed formats are: {allowed}'
            )
        return value

    return check


def _reworded(message: str) -> str:
    unknown = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if unknown:
        words = unknown[1].split(" ")
        flag = next((word for word in words if word.startswith("-") and word != "-"), None)
        if flag is None:
            return f'unexpected argument "{words[0]}"'
        if flag.startswith("--"):
            return f"unknown flag: {flag.partition('=')[0]}"
        return f"unknown shorthand flag: '{flag[1]}' in {flag}"
    needs = re.match(r"argument (\S+): expected (?:one|at least one) argument", message)
    if needs:
        return f"flag needs an argument: {needs[1].rpartition('/')[2]}"
    missing = re.match(r"the following arguments are required: (.*)", message)
    if missing:
        return f"required argument(s) not given: {missing[1]}"
    invalid = re.match(r"argument (\S+): (?:invalid \w+ value|invalid choice): ('.*?')(.*)", message, re.DOTALL)
    if invalid:
        value = invalid[2].strip("'")
        choices = re.search(r"\(choose from (.*)\)", invalid[3])
        allowed = f": must be one of {choices[1]}" if choices else ""
        return f'invalid argument "{value}" for "{invalid[1].rpartition("/")[2]}" flag{allowed}'.replace("'", "")
    ignored = re.match(r"ignored explicit argument '(.*)'", message.partition(": ")[2])
    return f"flag takes no argument: {ignored[1]}" if ignored else message
