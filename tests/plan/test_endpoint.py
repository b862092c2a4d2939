# SPDX-License-Identifier: Apache-2.0
"""The authored endpoint refuses what the API refuses, and streams what the real SDK takes for a stream."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import pytest

from controller.plan.testing import MessagesServer, answer, error, events, message, rate_limited, slow

GOOD: dict[str, Any] = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "x"}]}
OPEN = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
OPTIONAL = OPEN | {"additionalProperties": False, "required": []}
CACHED = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}


def client(server: MessagesServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="k", base_url=server.base_url, max_retries=0, timeout=20)


def test_the_sdk_reads_the_stream_as_the_message_that_it_was_made_of() -> None:
    said = "äöü " * 900
    with MessagesServer([answer(said, written=7, cached=3), answer(said)]) as server, client(server) as sdk:
        with sdk.messages.stream(**GOOD) as stream:
            streamed = stream.get_final_message()
        whole = sdk.messages.create(**GOOD)
    assert streamed.content[0].text == whole.content[0].text == said  # type: ignore[union-attr]
    assert streamed.stop_reason == "end_turn"
    usage = streamed.usage
    assert (usage.input_tokens, usage.output_tokens) == (1200, 300)
    assert (usage.cache_creation_input_tokens, usage.cache_read_input_tokens) == (7, 3)
    assert server.requests[0].body["stream"] is True


def test_events_come_in_the_order_of_the_protocol() -> None:
    kinds = [line[7:] for line in events(message("abc"), piece=2).decode().splitlines() if line.startswith("event: ")]
    assert kinds == [
        "message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "a sampling parameter": ({"extra_body": {"temperature": 0}}, "temperature"),
    "five breakpoints": ({"system": [CACHED] * 5}, "at most 4 blocks"),
    "an open object": ({"output_config": {"format": {"type": "json_schema", "schema": OPEN}}}, "additionalProperties"),
    "a range in the schema": (
        {"output_config": {"format": {"type": "json_schema", "schema": {"type": "integer", "minimum": 1}}}},
        "minimum is not supported",
    ),
    "a field that need not be there": (
        {"output_config": {"format": {"type": "json_schema", "schema": OPTIONAL}}}, "a must be required",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_what_the_api_refuses_is_refused_whatever_the_script_says(name: str) -> None:
    changes, told = FAULTS[name]
    refused = pytest.raises(anthropic.BadRequestError, match=told)
    with MessagesServer([answer("x")]) as server, client(server) as sdk, refused:
        sdk.messages.create(**(GOOD | changes))


def test_errors_have_the_classes_of_the_sdk_and_retry_after() -> None:
    script = [rate_limited(7), error(529, "overloaded_error"), error(401, "authentication_error")]
    with MessagesServer(script) as server, client(server) as sdk:
        with pytest.raises(anthropic.RateLimitError) as limited:
            sdk.messages.create(**GOOD)
        assert limited.value.response.headers["retry-after"] == "7"
        with pytest.raises(anthropic.APIStatusError, match="529"):
            sdk.messages.create(**GOOD)
        with pytest.raises(anthropic.AuthenticationError):
            sdk.messages.create(**GOOD)
        with pytest.raises(anthropic.BadRequestError, match="at its end"):
            sdk.messages.create(**GOOD)


def test_closing_the_server_ends_a_slow_answer() -> None:
    with MessagesServer([slow(answer("x"), delay_s=600)]) as server, client(server) as sdk:
        with pytest.raises(anthropic.APITimeoutError):
            sdk.with_options(timeout=0.3).messages.create(**GOOD)
        assert json.loads(server.requests[0].raw.partition(b"\r\n\r\n")[2]) == GOOD
