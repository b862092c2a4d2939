# SPDX-License-Identifier: Apache-2.0
"""No byte that somebody else wrote leaves in a request: checked on each one, before any transport sees it.

Prompts are built from handles, enumerations and numbers (controller.plan.prompt, .values), so there is nothing to find
here unless that building is wrong. Two checks, neither of which trusts the building:

    every key and string of the request, JSON inside strings taken apart too, is one of our own texts (the roles'
    instructions, the texts of the templates shipped with schedctl, the words of the values' models) or is shaped like a
    handle, a number, a quantity or a range of them; a sentence that no module of ours holds cannot be either

    no string of the inputs (process names, cgroup paths, units, labels, annotations, names of nodes, intents, policies
    and templates, texts of committed templates, reasons and notes) occurs in the bytes that are sent, in any way that
    JSON may escape it there, unless each of its words, escaped so, is in our own texts too: a process may be called
    slice, or `","tasks":4`, or nhow (of `\\nHow`), and nobody shall silence the planner by a name; such a string is
    left to the first check

What fails is not sent. The message names neither the text nor where it came from.
"""

from __future__ import annotations

import functools
import json
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from controller.api import Proposal, SchedulerPolicy, SchedulerTemplate, SchedulingIntent, WorkloadProfile
from controller.errors import SchedctlError
from controller.plan import prompt, values
from controller.render import builtin_templates

_WORD = re.compile(r"[a-z0-9]{4,}")
"""Of a text as it is escaped, in lower case. Shorter ones are not looked for: they carry nothing, and occur in any
text. A letter that is not ASCII is a word by its escape."""
_NUMBER = r"-?[0-9]{1,19}(?:\.[0-9]{1,9})?(?:e[+-]?[0-9]{1,3})?(?:ns|us|ms|s|m|h|d|%)?"
_PLAIN = re.compile(
    rf"(?:[itwpk][1-9][0-9]{{0,2}}|{_NUMBER}|[0-9]{{1,3}}\.[0-9]{{1,3}}|{_NUMBER}\.\.{_NUMBER}|)", re.ASCII
)
_PIECE_OF_PLAIN = re.compile(r"[itwpke]?[0-9]+(?:e[0-9]*)?(?:[num]?s|[numhd])?", re.ASCII)
"""What a word can be of a handle, a number or a quantity: 037u of 1037us, 234e of 1.234e-05."""
_LARGEST_NESTING = 2
"""JSON in a string of the request, and JSON in a string of that: no request of ours goes further."""
# fmt: off
_PROTOCOL = frozenset((
    "model", "max_tokens", "system", "type", "text", "cache_control", "ephemeral", "messages", "role", "user",
    "content", "output_config", "format", "json_schema", "schema", "effort", "low", "medium", "high", "string",
    "array", "object", "integer", "enum", "items", "properties", "required", "additionalProperties", "false",
))
# fmt: on


class Tainted(SchedctlError):
    """The request holds text that is not ours. It was not sent."""


class Guard:
    """Checks the requests of one plan. `trusted` are our own texts beyond those that are always ours."""

    def __init__(self, trusted: Iterable[str], untrusted: Iterable[str]) -> None:
        self._trusted = _always() | set(trusted)
        ours = " ".join({word for text in self._trusted for form in _escaped(text) for word in _WORD.findall(form)})
        given = {text.strip() for text in untrusted}
        forms = {form for text in given for form in _escaped(text) | _escaped(text.lower())}
        self._untrusted = sorted(form for form in forms if not all(_is_ours(w, ours) for w in _WORD.findall(form)))

    @classmethod
    def of_plan(
        cls,
        trusted: Iterable[str],
        profile: WorkloadProfile,
        intents: Sequence[SchedulingIntent],
        policy: SchedulerPolicy,
        templates: Sequence[SchedulerTemplate],
        base: Proposal,
    ) -> Guard:
        """With everything that a plan is made from as untrusted, but for the templates shipped with schedctl."""
        ours = {t.name: t.spec for t in builtin_templates()}
        foreign = [t for t in templates if ours.get(t.name) != t.spec]
        inputs: list[BaseModel] = [profile, *intents, policy, base, *foreign]
        texts = {text for value in inputs for text in _strings(value.model_dump(mode="json", by_alias=True))}
        return cls(trusted, (line for text in texts for line in ({text} | set(text.splitlines()))))

    def check(self, request: Mapping[str, Any]) -> bytes:
        """The request as the bytes that may be sent. Raises Tainted."""
        for text in _strings(request):
            self._own(text, 0)
        body = json.dumps(request, separators=(",", ":"))
        lowered = body.lower()
        if any(text in lowered for text in self._untrusted):
            raise Tainted("a request held a text from outside, and was not sent")
        return body.encode()

    def _own(self, text: str, depth: int) -> None:
        if text in self._trusted or _PLAIN.fullmatch(text):
            return
        if depth < _LARGEST_NESTING and text[:1] in ("{", "["):
            try:
                inner = json.loads(text, object_pairs_hook=list)  # a key may be there twice
            except (ValueError, RecursionError):
                inner = None
            if inner is not None:
                for each in _strings(inner):
                    self._own(each, depth + 1)
                return
        raise Tainted("a request held a text that is none of our own, and was not sent")


def _escaped(text: str) -> set[str]:
    """Everything that `text` can look like in the bytes of a request, in lower case: a string of it, or of JSON in one.

    JSON that is inside a string may have been written with or without the letters that are not ASCII.
    """
    forms = {text}
    for _ in range(_LARGEST_NESTING):
        forms |= {json.dumps(form, ensure_ascii=plain)[1:-1] for form in forms for plain in (True, False)}
    return {json.dumps(form)[1:-1].lower() for form in forms}


def _is_ours(word: str, ours: str) -> bool:
    return word in ours or _PIECE_OF_PLAIN.fullmatch(word) is not None


def _strings(value: Any) -> Iterator[str]:
    """Every key and string in plain JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield str(key)
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


@functools.cache
def _always() -> frozenset[str]:
    """Words of the protocol, of the values' models, and of the templates shipped with schedctl."""
    found = set(_PROTOCOL) | prompt.our_texts() | prompt.UNITS | {"others", "node"}
    for model in vars(values).values():
        if isinstance(model, type) and issubclass(model, BaseModel):
            for name, field in model.model_fields.items():
                found |= {name, field.alias or name} | set(_words(field.annotation))
    return frozenset(found)


def _words(annotation: Any) -> Iterator[str]:
    """The words of enumerations inside an annotation."""
    if typing.get_origin(annotation) is typing.Literal:
        yield from (word for word in typing.get_args(annotation) if isinstance(word, str))
    elif hasattr(annotation, "__members__"):
        yield from (str(member.value) for member in annotation)
    for inner in typing.get_args(annotation):
        if not isinstance(inner, str):
            yield from _words(inner)
