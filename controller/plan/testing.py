# SPDX-License-Identifier: Apache-2.0
"""A Messages-API endpoint for tests: the real wire protocol on loopback, the answers authored by the test.

    with MessagesServer([answer({"template": "t1", …}), overloaded(), cut()]) as server:
        …  # ANTHROPIC_BASE_URL=server.base_url
    server.requests  # what was sent, byte for byte

Each POST /v1/messages takes the next entry of the script; a request with `stream` gets a message as server-sent events.
Requests are held to what the API demands of them (key and version headers, required fields, no sampling parameters, at
most four cache breakpoints, a schema within what structured output supports), so that a client that would be refused
there is refused here. Nothing in an answer comes from a model: ids say `authored`.

    answer, message     a whole answer             refusal, max_tokens, error, rate_limited, overloaded
    slow, cut           late, dripping, broken     broken_off    a stream that ends in an error
    Scripted            anything else, byte for byte (`as_it_is`)
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

_SAMPLING = ("temperature", "top_p", "top_k")
_BREAKPOINTS = 4
_UNSUPPORTED = frozenset({"minimum", "maximum", "multipleOf", "minLength", "maxLength", "maxItems", "pattern"})


@dataclass(frozen=True)
class Scripted:
    """One authored response, sent after `delay_s`, a byte each `drip_s`, cut off after `keep` bytes of its body.

    A 200 with a JSON body is turned into events when the request asks for a stream, unless it goes `as_it_is`.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0
    keep: int | None = None
    drip_s: float = 0
    as_it_is: bool = False


@dataclass(frozen=True)
class Recorded:
    """One request: its bytes as received, and the parsed JSON body (None if it was not JSON)."""

    raw: bytes
    body: Any


def message(
    text: str,
    *,
    stop_reason: str = "end_turn",
    input_tokens: int = 1200,
    output_tokens: int = 300,
    written: int = 0,
    cached: int = 0,
    model: str = "",
) -> dict[str, Any]:
    """The JSON of a Message with one text block; `written` and `cached` are tokens of the prompt cache."""
    return {
        "id": "msg_authored",
        "type": "message",
        "role": "assistant",
        "model": model or "authored",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": input_tokens,
            "output_tokens": output_tokens,
            "cache_creation_input_tokens": written,
            "cache_read_input_tokens": cached,
        },
    }


def events(said: Mapping[str, Any], *, piece: int = 1000) -> bytes:
    """The same message as server-sent events, its text in pieces of `piece` characters."""
    usage = said.get("usage", {})
    start = {**said, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}} if usage else said
    told: list[dict[str, Any]] = [{"type": "message_start", "message": start}, {"type": "ping"}]
    for index, block in enumerate(said.get("content", ())):
        told.append({"type": "content_block_start", "index": index, "content_block": {**block, "text": ""}})
        text = block.get("text", "")
        for at in range(0, len(text), piece):
            delta = {"type": "text_delta", "text": text[at : at + piece]}
            told.append({"type": "content_block_delta", "index": index, "delta": delta})
        told.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": said.get("stop_reason"), "stop_sequence": None}
    counted = {"usage": {"output_tokens": usage["output_tokens"]}} if usage else {}
    told += [{"type": "message_delta", "delta": delta, **counted}, {"type": "message_stop"}]
    return b"".join(_event(one) for one in told)


def _event(data: Mapping[str, Any]) -> bytes:
    return f"event: {data['type']}\ndata: {json.dumps(data)}\n\n".encode()


def answer(value: object, **changes: Any) -> Scripted:
    """A whole answer: `value` as its JSON text, or a string as it stands. `changes` go to `message`."""
    text = value if isinstance(value, str) else json.dumps(value)
    return Scripted(body=json.dumps(message(text, **changes)).encode())


def refusal() -> Scripted:
    """The model declines."""
    return answer("", stop_reason="refusal")


def max_tokens(text: str = '{"template": "t') -> Scripted:
    """The answer ends where its tokens did."""
    return answer(text, stop_reason="max_tokens")


def error(status: int, kind: str, text: str = "authored error", *, retry_after: float | None = None) -> Scripted:
    """An error in the API's form; `retry_after` seconds in its header."""
    body = {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_authored"}
    headers = {} if retry_after is None else {"retry-after": f"{retry_after:g}"}
    return Scripted(status=status, body=json.dumps(body).encode(), headers=headers)


def overloaded() -> Scripted:
    """HTTP 529."""
    return error(529, "overloaded_error")


def rate_limited(retry_after: float | None = None) -> Scripted:
    """HTTP 429."""
    return error(429, "rate_limit_error", retry_after=retry_after)


def broken_off(kind: str = "overloaded_error", whole: Scripted | None = None) -> Scripted:
    """A stream that begins well and ends in an error event."""
    begun = events(json.loads((whole or answer({})).body)).partition(b"event: message_delta")[0]
    failed = {"type": "error", "error": {"type": kind, "message": "authored error"}}
    headers = {"content-type": "text/event-stream"}
    return Scripted(body=begun + _event(failed), headers=headers, as_it_is=True)


def cut(whole: Scripted | None = None, *, after: int = 20) -> Scripted:
    """The connection breaks `after` bytes of the body."""
    whole = whole or answer({})
    return replace(whole, keep=after)


def slow(whole: Scripted, *, delay_s: float = 0, drip_s: float = 0) -> Scripted:
    """`whole`, after `delay_s`, and a byte each `drip_s`. Closing the server ends the wait."""
    return replace(whole, delay_s=delay_s, drip_s=drip_s)


class MessagesServer:
    """The endpoint, on a free port of 127.0.0.1, from `with` to its end."""

    def __init__(self, script: Sequence[Scripted]) -> None:
        self.requests: list[Recorded] = []
        self._script: Iterator[Scripted] = iter(script)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._asked = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    @property
    def base_url(self) -> str:
        """For ANTHROPIC_BASE_URL."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def wait_for_request(self, timeout_s: float) -> bool:
        """Until a request is there (True) or the time is over (False)."""
        return self._asked.wait(timeout_s)

    def __enter__(self) -> MessagesServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def _next(self, request: Recorded) -> Scripted:
        with self._lock:
            self.requests.append(request)
            self._asked.set()
            return next(self._script, error(400, "invalid_request_error", "the authored script is at its end"))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                raw, body = _received(self)
                fault = _fault(self.path, dict(self.headers.items()), body)
                scripted = server._next(Recorded(raw, body))
                streamed = isinstance(body, dict) and body.get("stream") is True
                _respond(self, _as_events(fault or scripted) if streamed else fault or scripted, server._closing.wait)

            def log_message(self, format: str, *args: object) -> None:
                """Quiet: the test reads `requests`."""

        return Handler


def _as_events(scripted: Scripted) -> Scripted:
    """What a request with `stream` gets: errors stay JSON."""
    if scripted.as_it_is or scripted.status != 200:
        return scripted
    body = events(json.loads(scripted.body))
    return replace(scripted, body=body, headers={"content-type": "text/event-stream", **scripted.headers})


def _received(handler: BaseHTTPRequestHandler) -> tuple[bytes, Any]:
    body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
    lines = (handler.requestline, *(f"{name}: {value}" for name, value in handler.headers.items()), "")
    head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    return head + body, parsed


def _fault(path: str, headers: Mapping[str, str], body: Any) -> Scripted | None:
    """The error the API would answer whatever the script says, None for a good request."""
    if path != "/v1/messages":
        return error(404, "not_found_error", "no such path")
    sent = {name.lower() for name, value in headers.items() if value}
    if not sent & {"x-api-key", "authorization"}:
        return error(401, "authentication_error", "x-api-key header is required")
    if "anthropic-version" not in sent:
        return error(400, "invalid_request_error", "anthropic-version: header is required")
    if not isinstance(body, dict):
        return error(400, "invalid_request_error", "the body is not a JSON object")
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            return error(400, "invalid_request_error", f"{name}: Field required")
    if not isinstance(body["max_tokens"], int) or body["max_tokens"] < 1:
        return error(400, "invalid_request_error", "max_tokens: must be a positive whole number")
    if json.dumps(body).count('"cache_control"') > _BREAKPOINTS:
        return error(400, "invalid_request_error", f"at most {_BREAKPOINTS} blocks may have cache_control")
    for name in _SAMPLING:
        if name in body:
            return error(400, "invalid_request_error", f"{name}: not supported by this model")
    output = body.get("output_config", {}).get("format", {})
    found = next(_schema_faults(output.get("schema", {})), None)
    return error(400, "invalid_request_error", f"output_config.format.schema: {found}") if found else None


def _schema_faults(schema: Any) -> Iterator[str]:
    """What structured output does not take: ranges and lengths, open objects, fields that are not required."""
    if isinstance(schema, list):
        for item in schema:
            yield from _schema_faults(item)
    if not isinstance(schema, dict):
        return
    for name in sorted(_UNSUPPORTED & schema.keys()):
        yield f"{name} is not supported"
    if schema.get("type") == "object":
        if schema.get("additionalProperties") is not False:
            yield "additionalProperties must be false"
        yield from (f"{name} must be required" for name in schema["properties"] if name not in schema["required"])
        yield from _schema_faults(list(schema["properties"].values()))
    yield from _schema_faults(schema.get("items"))


def _respond(handler: BaseHTTPRequestHandler, scripted: Scripted, wait: Callable[[float], bool]) -> None:
    if scripted.delay_s:
        wait(scripted.delay_s)
    handler.send_response(scripted.status)
    headers = {"content-type": "application/json", "request-id": "req_authored", **scripted.headers}
    for name, value in (headers | {"content-length": str(len(scripted.body))}).items():
        handler.send_header(name, value)
    handler.end_headers()
    body = scripted.body if scripted.keep is None else scripted.body[: scripted.keep]
    handler.close_connection = handler.close_connection or scripted.keep is not None
    try:
        if not scripted.drip_s:
            handler.wfile.write(body)
        for i in range(len(body) if scripted.drip_s else 0):
            handler.wfile.write(body[i : i + 1])
            if wait(scripted.drip_s):
                return
    except OSError:  # the client has gone, as clients do
        handler.close_connection = True
