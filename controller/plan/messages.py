# SPDX-License-Identifier: Apache-2.0
"""One request to the Anthropic Messages API, with an end in sight and no surprises.

The SDK is wrapped for five reasons: its own retries honour a `retry-after` of hours, so there are none here and the
caller decides; its time-outs are per read, so a whole call gets a deadline of its own; it would follow a redirect, and
take any base URL from the environment, with the key and the prompt, so hosts are allow-listed and redirects refused;
its error texts quote the remote side, and texts from outside must not travel into Git or a log, so failures are told in
our words; and it takes about a second to import, so that happens at the first call.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from controller.errors import InputError, SchedctlError
from controller.plan import tape
from controller.plan.ledger import Usage

if TYPE_CHECKING:
    import anthropic

KEY = "ANTHROPIC_API_KEY"
BASE_URL = "ANTHROPIC_BASE_URL"
MODEL = "SCHEDCTL_MODEL"
DEFAULT_MODEL = "claude-sonnet-5-5"
API_HOST = "api.anthropic.com"

MAX_ANSWER_CHARS = 65_536
"""A longer answer than this is refused unread: a proposal takes a few thousand."""
_MODEL_ID = re.compile(r"[a-z0-9][a-z0-9.@-]{0,99}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_MAX_TOKENS_COUNTED = 10**9

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


@dataclass(frozen=True)
class Settings:
    """Where to ask and as whom. The key is shown nowhere, not in a repr either."""

    key: str = field(repr=False)
    model: str = DEFAULT_MODEL
    base_url: str = f"https://{API_HOST}"

    @staticmethod
    def from_environment() -> Settings | None:
        """None without a key. InputError for a host that is not allowed or a model id that cannot be one."""
        key = os.environ.get(KEY, "").strip()
        if not key:
            return None
        base_url = os.environ.get(BASE_URL, "").strip() or f"https://{API_HOST}"
        if not _host_allowed(base_url):
            raise InputError(
                f"{BASE_URL} names a host that neither is loopback nor https://{API_HOST}",
                remedy=f"unset {BASE_URL}",
            )
        model = os.environ.get(MODEL, "").strip() or DEFAULT_MODEL
        if _MODEL_ID.fullmatch(model) is None:
            raise InputError(f"{MODEL} is not a model id", remedy=f"set it to one such as {DEFAULT_MODEL}")
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


@tape.noted
def send(settings: Settings, request: Mapping[str, Any], timeout_s: float) -> Reply:
    """POST `request` (the arguments of `messages.create`) once. Raises CallFailed; ends within `timeout_s`.

    The call runs in a daemon thread that is abandoned when the time is over: no time-out of an HTTP library bounds an
    answer that comes a byte at a time.
    """
    ended: queue.SimpleQueue[Reply | CallFailed] = queue.SimpleQueue()

    def call() -> None:
        try:
            ended.put(_call(settings, request, timeout_s))
        except CallFailed as failure:
            ended.put(failure)

    threading.Thread(target=call, name="messages-api", daemon=True).start()
    try:
        result = ended.get(timeout=timeout_s)
    except queue.Empty:
        raise CallFailed(f"no whole answer within {timeout_s:.0f} s") from None
    if isinstance(result, CallFailed):
        raise result
    return result


def _call(settings: Settings, request: Mapping[str, Any], timeout_s: float) -> Reply:
    try:
        import anthropic
    except ImportError:
        raise CallFailed("the Python package anthropic is not installed", free=True) from None
    try:
        with _client(settings, timeout_s) as client:
            return _reply(client.messages.create(**request))
    except CallFailed:
        raise
    except anthropic.APIStatusError as error:
        raise _status_failure(error) from None
    except anthropic.APITimeoutError:
        raise CallFailed(f"no answer within {timeout_s:.0f} s") from None
    except anthropic.APIConnectionError:
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
    status = error.status_code
    words = _STATUS_WORDS.get(status, "the API failed" if status >= 500 else "the API refused the request")
    # The API bills answers; whether a call that died inside it (500, 502, …) was one is not known.
    free = status < 500 or status == 529
    wait = _seconds(error.response.headers.get("retry-after"))
    if status == 429 and wait:
        words += f" for {wait:.0f} s"
    transient = status in (408, 409, 429) or status >= 500
    return CallFailed(f"{words} (HTTP {status})", transient=transient, free=free, retry_after_s=wait)


def _seconds(header: str | None) -> float:
    return float(header) if header is not None and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", header) else 0.0


def _reply(message: Any) -> Reply:
    """A loopback or broken endpoint can say anything, and the SDK does not validate: take only what is of its type."""
    content = getattr(message, "content", None)
    stop_reason = getattr(message, "stop_reason", None)
    usage = _usage(getattr(message, "usage", None))
    if not isinstance(content, list) or not isinstance(stop_reason, str):
        raise CallFailed("what came back is not a message of the Messages API")
    texts = [block.text for block in content if getattr(block, "type", None) == "text"]
    request_id = getattr(message, "_request_id", None)
    known = isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id) is not None
    return Reply(
        text="".join(text for text in texts if isinstance(text, str)),
        stop_reason=stop_reason,
        usage=usage,
        request_id=str(request_id) if known else "",
    )


def _usage(usage: Any) -> Usage | None:
    def count(name: str) -> int | None:
        value = getattr(usage, name, None)
        if value is None and name.startswith("cache_"):
            return 0
        return value if isinstance(value, int) and 0 <= value <= _MAX_TOKENS_COUNTED else None

    given, made = count("input_tokens"), count("output_tokens")
    cached, written = count("cache_read_input_tokens"), count("cache_creation_input_tokens")
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
