# SPDX-License-Identifier: Apache-2.0
"""`schedctl completion bash|zsh`: a script generated from the verbs themselves, so that it cannot lag behind them."""

from __future__ import annotations

from argparse import Namespace
from importlib import import_module

from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.errors import InputError

_SHELLS = ("bash", "zsh")

_SCRIPT = """\
# {shell} completion for schedctl. Use it with: source <(schedctl completion {shell})
{prologue}_schedctl() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" verb="" kind="" i words=""
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "${{COMP_WORDS[i]}}" in
            --repo|-n|--namespace|-o|--output) ((i++)) ;;
            -*) ;;
            *) if [[ -z "$verb" ]]; then verb="${{COMP_WORDS[i]}}"
               elif [[ " {pairs} " == *" $verb:${{COMP_WORDS[i]}} "* ]]; then verb="$verb ${{COMP_WORDS[i]}}"
               elif [[ -z "$kind" ]]; then kind="${{COMP_WORDS[i]}}"; fi ;;
        esac
    done
    case "$verb" in
        "") words="{verbs}" ;;
{cases}
    esac
    if [[ "$word" != -* ]]; then
        case "$verb" in
            get|describe|delete|wait)
                if [[ -z "$kind" ]]; then words="{kinds}"
                else words="$(schedctl get "$kind" -o name 2>/dev/null | sed 's|.*/||')"; fi ;;
            explain) words="{kinds}" ;;
{both}
            apply|diff|render|verify) words="" ;;
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    if [[ ${{#COMPREPLY[@]}} -eq 0 && "$word" != -* ]]; then
        compopt -o default 2>/dev/null
    fi
}}
complete -F _schedctl schedctl
"""


def _arguments(parser: Parser) -> None:
    parser.add_argument("shell", nargs="?", default="", metavar="bash|zsh")


def _completion(args: Namespace, context: Context) -> int:
    if not args.shell:
        raise UsageError("Shell not specified.")
    if args.shell not in _SHELLS:
        raise InputError(f'unsupported shell type "{args.shell}"', remedy=f"one of {', '.join(_SHELLS)}")
    context.out(script(args.shell))
    return 0


def script(shell: str) -> str:
    """The completion script for bash or zsh (which runs bash's through bashcompinit)."""
    from controller.api.kinds import KINDS
    from controller.cli.main import GROUPS, VERBS

    cases = [f'        {group}) words="{_members(group)}" ;;' for group in GROUPS if group not in VERBS]
    both = [f'            {group}) words="{_members(group)}" ;;' for group in GROUPS if group in VERBS]
    for name, entry in VERBS.items():
        verb = getattr(import_module(f"controller.cli.{entry.module}"), entry.name)
        flags = " ".join(Parser(name, entry.summary, verb).flags())
        cases.append(f'        "{name}") words="{flags}" ;;')
    prologue = (
        "autoload -U +X bashcompinit && bashcompinit\nautoload -U +X compinit && compinit\n" if shell == "zsh" else ""
    )
    return _SCRIPT.format(
        shell=shell,
        prologue=prologue,
        pairs=" ".join(name.replace(" ", ":") for name in VERBS if " " in name),
        both="\n".join(both),
        verbs=" ".join(dict.fromkeys(name.split()[0] for name in VERBS)),
        kinds=" ".join(word for kind in KINDS for word in (kind.plural, kind.short)),
        cases="\n".join(cases),
    )


def _members(group: str) -> str:
    from controller.cli.main import VERBS

    return " ".join(name.split()[1] for name in VERBS if name.startswith(f"{group} "))


COMPLETION = Verb(run=_completion, arguments=_arguments, usage="bash|zsh")
