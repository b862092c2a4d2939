# SPDX-License-Identifier: Apache-2.0
"""What a model that means harm might answer, as planner and as executor; none of it may become a proposal."""

from __future__ import annotations

import json
from typing import Any

from tests.plan import claude_case as case

DEEP = "[" * 20_000
TWIN = json.dumps(case.strategy())[:-1] + ', "template": "t1"}'
SMUGGLED = "deadline; } int x = system(0); {"


def value(name: str, text: object) -> dict[str, Any]:
    """An executor's answer that gives one parameter."""
    return case.filling(parameters=[{"name": name, "value": text}])


def expression(text: object, hole: str = "deadline") -> dict[str, Any]:
    """An executor's answer that fills one hole."""
    return case.filling(expressions=[{"hole": hole, "expression": text}])


PLANNER: dict[str, Any] = {
    "talk instead of JSON": "I would rather talk about it.",
    "nothing": "",
    "a list": "[]",
    "null": "null",
    "a number": "7",
    "deep nesting": DEEP,
    "deep nesting in a field": json.dumps(case.strategy()).replace('"i1 waits."', DEEP),
    "a megabyte of text": case.strategy(reasons=["x" * 1_000_000]),
    "a megabyte of aims": case.strategy(aims=case.strategy()["aims"] * 12_000),
    "a field too many": case.strategy(command="rm -rf /"),
    "a field too few": {"template": "t1"},
    "a number for a text": case.strategy(template=4),
    "a list for a text": case.strategy(template=["t4"]),
    "true for a list": case.strategy(aims=True),
    "NaN": json.dumps(case.strategy()).replace('"i1 waits."', "NaN"),
    "JSON behind JSON": json.dumps(case.strategy()) + json.dumps(case.strategy()),
    "JSON in a fence": f"```json\n{json.dumps(case.strategy())}\n```",
    "half a surrogate": json.dumps(case.strategy(template="\ud800")),
    "an unknown template": case.strategy(template="t99"),
    "a template by its name": case.strategy(template="latency-first"),
    "a template's path": case.strategy(template="../../etc/passwd"),
    "a handle with a blank": case.strategy(template="t4 "),
    "a handle in full width": case.strategy(template="ｔ４"),
    "a handle with a joiner": case.strategy(template="t\u200d4"),
    "an unknown parameter": case.strategy(aims=[case.strategy()["aims"][0] | {"parameter": "speed"}]),
    "a parameter of Python's": case.strategy(aims=[case.strategy()["aims"][0] | {"parameter": "__class__"}]),
    "a direction of its own": case.strategy(aims=[case.strategy()["aims"][0] | {"direction": "sideways"}]),
    "a finding of its own": case.strategy(aims=[case.strategy()["aims"][0] | {"because": "I say so"}]),
    "an intent that is not there": case.strategy(aims=[case.strategy()["aims"][1] | {"intent": "i9"}]),
    "an intent by its name": case.strategy(aims=[case.strategy()["aims"][1] | {"intent": "shop/checkout"}]),
    "others as an intent": case.strategy(aims=[case.strategy()["aims"][1] | {"intent": "others"}]),
    "the same aim twice": case.strategy(aims=case.strategy()["aims"] * 2),
    "an unknown hole": case.strategy(holes=["x"]),
    "the same hole twice": case.strategy(holes=["deadline", "deadline"]),
    "a new template": case.strategy(newTemplate={"source": "int main;"}),
}
EXECUTOR: dict[str, Any] = {
    "no unit": value("slice", "5"),
    "below the range": value("slice", "1us"),
    "above the range": value("slice", "3s"),
    "a negative duration": value("slice", "-1ms"),
    "infinity": value("slice", "inf"),
    "an exponent": value("slice", "1e3us"),
    "a huge number": value("others_weight", "9" * 300),
    "a number of 64 bits": value("others_weight", str(2**64)),
    "a fraction": value("others_weight", "1.5"),
    "hexadecimal": value("others_weight", "0x10"),
    "an underscore": value("others_weight", "1_0"),
    "digits of another script": value("others_weight", "٢"),
    "digits in full width": value("slice", "２ms"),
    "a superscript": value("others_weight", "²"),
    "a micro sign that is a Greek letter": value("slice", "900\u03bcs"),
    "a blank in a value": value("slice", "2 ms"),
    "a newline in a value": value("slice", "2ms\n"),
    "a NUL in a value": value("slice", "2ms\x00"),
    "C in a value": value("slice", "2ms; system(0)"),
    "Jinja in a value": value("slice", "{{ 7*7 }}"),
    "a number for a value": value("slice", 2),
    "null for a value": value("slice", None),
    "a parameter twice": case.filling(parameters=[{"name": "slice", "value": "2ms"}] * 2),
    "an unknown parameter": value("speed", "1ms"),
    "a class parameter of nobody": case.filling(classes=[{"intent": "i9", "name": "deadline", "value": "1ms"}]),
    "a class parameter of the whole": case.filling(classes=[{"intent": "", "name": "deadline", "value": "1ms"}]),
    "against the strategy": value("slice", "20ms"),
    "C in an expression": expression(SMUGGLED),
    "a comment in an expression": expression("deadline /* x */"),
    "an assignment": expression("deadline = 1"),
    "a call": expression("bpf_ktime_get_ns()"),
    "a string": expression('"x"'),
    "a line directive": expression('1\n#include "/etc/passwd"'),
    "Jinja in an expression": expression("{{ deadline }}"),
    "a name of another hole": expression("ageing"),
    "a name in another script": expression("dеadline"),
    "an invisible name": expression("dead\u200bline"),
    "an overflow": expression("9223372036854775807 + deadline"),
    "a number of 64 bits in an expression": expression("18446744073709551615"),
    "a deep expression": expression("(" * 200 + "1" + ")" * 200),
    "a long expression": expression("1+" * 300 + "1"),
    "an empty expression": expression(""),
    "an unknown hole": expression("1", "x"),
    "a hole that the strategy did not name": expression("deadline", "slice"),
    "a field too many": case.filling(command="rm -rf /"),
    "the class of somebody else": case.filling(classes=[{"intent": "i1", "name": "weight", "value": "10000"}]),
}
