# SPDX-License-Identifier: Apache-2.0
"""One request to the Anthropic Messages API, with an end in sight and no surprises.

Answers are streamed: one that is longer than any answer may be is cut off while it comes, and a call whose time is over
is closed. The SDK is wrapped for five reasons: its own retries honour a `retry-after` of hours, so there are none here
and the caller decides; its time-outs are per read, so a whole call gets a deadline of its own; it would follow a
redirect, and take any base URL from the environment, with the key and the prompt, so hosts are allow-listed and
redirects refused; its error texts quote the remote side, and texts from outside must not travel into Git or a log, so
failures are told in our words; and it takes about a second to import, so that happens at the first call.

The key is held by controller.apikey, out of the environment, so that no compiler, virtual machine or other program that
this process starts inherits it.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from controller import apikey
from controller.errors import InputError, SchedctlError
from controller.plan.ledger import Usage

if TYPE_CHECKING:
    import anthropic

KEY = apikey.VARIABLE
BASE_URL = "ANTHROPIC_BASE_URL"
MODEL = "SCHEDCTL_MODEL"
API_HOST = "api.anthropic.com"

MAX_ANSWER_CHARS = 65_536
"""A longer answer than this is refused unread: a proposal takes a few thousand."""
TOO_LONG = "too_long"
"""Our own stop reason, of an answer that we cut off."""
_MODEL_ID = re.compile(r"[a-z0-9][a-z0-9.@-]{0,99}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
MAX_TOKENS_COUNTED = 10**9

_STATUS_WORDS = {
    400: "the API refused the request as invalid",
    401: "the API refused the key",
    402: "the account has no credit",
    403: "the key may not use this model or API",
    404: "the API does not know the model or address",
    413: "the API refused the request as too large",
    429: "the API's rate limit is reached",
    529: "the API is overloaded",
}
_STATUS_OF_KIND = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""An error in the middle of a stream comes with HTTP 200 and only its kind tells what it is."""


@dataclass(frozen=True)
class Settings:
    """Where to ask and as whom. The key is shown nowhere, not in a repr either. `model` "": as the roles choose."""

    key: str = field(repr=False)
    model: str = ""
    base_url: str = f"https://{API_HOST}"

    @staticmethod
    def from_environment() -> Settings | None:
        """None without a key. InputError for a host that is not allowed or a model id that cannot be one."""
        key = apikey.hold()
        if not key:
            return None
        base_url = os.environ.get(BASE_URL, "").strip() or f"https://{API_HOST}"
        if not _host_allowed(base_url):
            raise InputError(
                f"{BASE_URL} names a host that neither is loopback nor https://{API_HOST}",
                remedy=f"unset {BASE_URL}",
            )
        model = os.environ.get(MODEL, "").strip()
        if model and _MODEL_ID.fullmatch(model) is None:
            raise InputError(f"{MODEL} is not a model id", remedy="set it to one such as claude-haiku-5-5, or unset it")
        return Settings(key=key, model=model, base_url=base_url)


class CallFailed(SchedctlError):
    """A call gave no answer. The message is ours and safe to store.

    `transient`: the same call may work later; `retry_after_s`: what the API asked for; `free`: the API bills no such
    failure (otherwise what it cost is not known).
    """

    def __init__(self, message: str, *, transient: bool = False, free: bool = False, retry_after_s: float = 0) -> None:
        super().__init__(message)
        self.transient = transient
        self.free = free
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Reply:
    """What came back: the text blocks joined, why the model stopped, what it used (None: not told), the id."""

    text: str
    stop_reason: str
    usage: Usage | None
    request_id: str


def send(settings: Settings, request: Mapping[str, Any], timeout_s: float) -> Reply:
    """POST `request` (the arguments of `messages.create`) once. Raises CallFailed; ends within `timeout_s`.

    The call runs in a daemon thread that is abandoned when the time is over: no time-out of an HTTP library bounds an
    answer that comes a byte at a time. The thread closes its connection at the next event.
    """
    ended: queue.SimpleQueue[Reply | CallFailed] = queue.SimpleQueue()
    abandoned = threading.Event()

    def call() -> None:
        try:
            ended.put(_call(settings, request, timeout_s, abandoned))
        except CallFailed as failure:
            ended.put(failure)

    threading.Thread(target=call, name="messages-api", daemon=True).start()
    try:
        result = ended.get(timeout=timeout_s)
    except queue.Empty:
        abandoned.set()
        raise CallFailed(f"no whole answer within {timeout_s:.0f} s") from None
    if isinstance(result, CallFailed):
        raise result
    return result


def _call(settings: Settings, request: Mapping[str, Any], timeout_s: float, abandoned: threading.Event) -> Reply:
    try:
        import anthropic
        import httpx2
    except ImportError:
        raise CallFailed("the Python package anthropic is not installed", free=True) from None
    try:
        with _client(settings, timeout_s) as client, client.messages.create(**request, stream=True) as events:
            return _streamed(events, str(events.response.headers.get("request-id") or ""), abandoned)
    except CallFailed:
        raise
    except anthropic.APIStatusError as error:
        raise _status_failure(error) from None
    except (anthropic.APITimeoutError, httpx2.TimeoutException):
        raise CallFailed(f"no answer within {timeout_s:.0f} s") from None
    except (anthropic.APIConnectionError, httpx2.TransportError):
        raise CallFailed("the connection to the API failed or broke off", transient=True) from None
    except Exception as error:  # noqa: BLE001  (whatever an SDK raises, planning goes on without it; its text stays out)
        raise CallFailed(f"the SDK failed with {type(error).__name__}") from None


def _client(settings: Settings, timeout_s: float) -> anthropic.Anthropic:
    """A client that neither retries, follows redirects, traces, nor looks for other credentials than the given key."""
    import anthropic

    loopback = urlsplit(settings.base_url).hostname != API_HOST
    # A proxy of the environment is for the outside; an entry of None keeps loopback off it.
    mounts = {"http://": None, "https://": None} if loopback else {}
    return anthropic.Anthropic(
        api_key=settings.key,
        base_url=settings.base_url,
        max_retries=0,
        timeout=timeout_s,
        open_telemetry=False,
        http_client=anthropic.DefaultHttpxClient(
            follow_redirects=False, timeout=timeout_s, trust_env=not loopback, mounts=mounts
        ),
    )


def _status_failure(error: anthropic.APIStatusError) -> CallFailed:
    status = error.status_code if error.status_code >= 300 else _STATUS_OF_KIND.get(_kind(error.body), 500)
    words = _STATUS_WORDS.get(status, "the API failed" if status >= 500 else "the API refused the request")
    # The API bills answers; whether a call that died inside it (500, 502, …) was one is not known.
    free = error.status_code >= 300 and (status < 500 or status == 529)
    wait = _seconds(error.response.headers.get("retry-after"))
    if status == 429 and wait:
        words += f" for {wait:.0f} s"
    transient = status in (408, 409, 429) or status >= 500
    return CallFailed(f"{words} (HTTP {status})", transient=transient, free=free, retry_after_s=wait)


def _kind(body: object) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("type")) if isinstance(error, dict) else ""


def _seconds(header: str | None) -> float:
    return float(header) if header is not None and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", header) else 0.0


def _streamed(events: Iterable[Any], request_id: str, abandoned: threading.Event) -> Reply:
    """The events of one answer as a whole. An endpoint can say anything, and the SDK validates nothing: take only what
    is of its type.
    """
    texts: list[str] = []
    length, stop_reason, whole = 0, "", False
    counts: dict[str, Any] = {}
    for event in events:
        if abandoned.is_set():
            raise CallFailed("no whole answer in time")
        kind = getattr(event, "type", None)
        if kind == "message_start":
            _count(getattr(getattr(event, "message", None), "usage", None), counts)
        elif kind == "content_block_delta":
            text = getattr(getattr(event, "delta", None), "text", None)
            texts += [text] if isinstance(text, str) else []
            length += len(text) if isinstance(text, str) else 0
            if length > MAX_ANSWER_CHARS:
                return Reply("", TOO_LONG, None, _known_id(request_id))
        elif kind == "message_delta":
            reason = getattr(getattr(event, "delta", None), "stop_reason", None)
            stop_reason = reason if isinstance(reason, str) else stop_reason
            _count(getattr(event, "usage", None), counts)
        elif kind == "message_stop":
            whole = True
    if not counts and not texts and not stop_reason:
        raise CallFailed("what came back is not a message of the Messages API")
    if not whole or not stop_reason:
        raise CallFailed("the connection to the API failed or broke off", transient=True)
    return Reply("".join(texts), stop_reason, _usage(counts), _known_id(request_id))


def _known_id(request_id: str) -> str:
    return request_id if _REQUEST_ID.fullmatch(request_id) else ""


_COUNTED = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")


def _count(usage: Any, counts: dict[str, Any]) -> None:
    """Later events tell the running totals again: the last word counts."""
    for name in _COUNTED:
        value = getattr(usage, name, None)
        if value is not None:
            counts[name] = value


def _usage(counts: Mapping[str, Any]) -> Usage | None:
    found = [counts.get(name, 0 if name.startswith("cache_") else None) for name in _COUNTED]
    given, made, cached, written = (
        n if isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= MAX_TOKENS_COUNTED else None for n in found
    )
    if given is None or made is None or cached is None or written is None:
        return None
    return Usage(input=given, output=made, cached=cached, written=written)


def _host_allowed(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        return False
    host = parts.hostname or ""
    if host == API_HOST:
        return parts.scheme == "https" and port in (None, 443)
    if parts.scheme not in ("http", "https"):
        return False
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
