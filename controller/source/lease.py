# SPDX-License-Identifier: Apache-2.0
"""Leases: the right of one process to work on a key, in a ref of its own under refs/schedctl/lease/.

The ref points at a blob that says who holds it and until when; it is made, renewed and taken over by compare-and-swap,
so of two that try at once one succeeds. A thread renews it at a third of its time. A holder that is killed frees it
when that time and the margin for clocks that differ (SKEW_S) are over: it is free for whoever sees

    now > expiresAt + SKEW_S                         by the wall clock, or
    the same blob for longer than its time + SKEW_S  by the own monotonic clock: also when the holder's clock is wrong

A clock that is ahead by more than SKEW_S can take a lease over too early. The work is then done twice and committed
once: before it commits the holder renews by compare-and-swap (`confirm`), and that fails when the ref is another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from controller.api import sha256
from controller.errors import CouldNotTell, RepositoryError, SchedctlError
from controller.source.remote import LEASE_PREFIX, Remote

TTL_S = 120.0
SKEW_S = 30.0
_MAX_BYTES = 4096
_TRIES = 3


@dataclass
class LeaseRefs:
    """The leases of one repository, with when each was first seen as it is now (monotonic seconds)."""

    remote: Remote
    ttl_s: float = TTL_S
    skew_s: float = SKEW_S
    seen: dict[str, tuple[str, float]] = field(default_factory=dict)


class Lease:
    """One lease that is held. Release it; a process that ends without doing so lets it expire."""

    def __init__(self, leases: LeaseRefs, ref: str, blob: str, until: float) -> None:
        self._leases, self._ref, self._blob, self._ttl_s = leases, ref, blob, leases.ttl_s
        self._until = until
        self._untold: set[str] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def confirm(self) -> bool:
        """Renew it now. False when it is no longer ours, or when its time is over and nobody could be asked."""
        with self._lock:
            if self._ended.is_set():
                return False
            remote, began = self._leases.remote, time.monotonic()
            try:
                new = _write(remote, self._ttl_s)
                self._untold.add(new)
                mine = self._change(lambda old: remote.publish(self._ref, new, old, self._ref, "renew a lease"))
            except SchedctlError:
                return time.monotonic() < self._until  # not told: ours as long as nobody may take it
            if mine:
                self._blob, self._until = new, began + self._ttl_s
                self._untold.clear()
            else:
                self._ended.set()
            return mine

    def release(self) -> None:
        """Remove it if it is still ours. What cannot be removed now expires."""
        self._ended.set()
        self._thread.join(timeout=self._ttl_s)
        with self._lock, contextlib.suppress(SchedctlError):
            self._change(lambda old: self._leases.remote.remove(self._ref, old))

    def _change(self, change: Callable[[str], bool]) -> bool:
        """`change` from where the ref is, as long as that is ours: the blob that is known to be there, or one whose
        push may have landed although nobody told. False when it is another's. CouldNotTell when it cannot be moved now.
        """
        blob = self._blob
        for _ in range(_TRIES):
            if change(blob):
                return True
            now = self._leases.remote.repository.ref(self._ref)  # fetched when the race was lost
            if now != self._blob and now not in self._untold:
                return False
            blob = now
        raise CouldNotTell(f"{self._ref} is ours and could not be moved in {_TRIES} tries")

    def _keep(self) -> None:
        while not self._ended.wait(self._ttl_s / 3):
            self.confirm()


def acquire(leases: LeaseRefs, key: str) -> Lease | None:
    """The lease of `key`, or None while another process holds it. RepositoryError when it could not be told."""
    try:
        return _acquire(leases, LEASE_PREFIX + sha256(key.encode()).removeprefix("sha256:")[:40])
    except CouldNotTell as error:
        raise RepositoryError(f"taking the lease of a plan: {error.message}", remedy=error.remedy) from error


def _acquire(leases: LeaseRefs, ref: str) -> Lease | None:
    remote = leases.remote
    remote.fetch()
    old = remote.repository.ref(ref)
    if old is not None and not _free(leases, ref, old):
        return None
    began = time.monotonic()
    new = _write(remote, leases.ttl_s)
    if not remote.publish(ref, new, old, ref, "take a lease"):
        return None
    leases.seen.pop(ref, None)
    return Lease(leases, ref, new, began + leases.ttl_s)


def _free(leases: LeaseRefs, ref: str, blob: str) -> bool:
    """Whether the lease that `blob` says has run out, see the module's text. One that cannot be read has."""
    first = leases.seen.get(ref)
    if first is None or first[0] != blob:
        first = leases.seen[ref] = (blob, time.monotonic())
    said = _read(leases.remote, blob)
    if said is None:
        return True
    expires, ttl_s = said
    return time.time() > expires + leases.skew_s or time.monotonic() - first[1] > ttl_s + leases.skew_s


def _write(remote: Remote, ttl_s: float) -> str:
    """A new blob; the nonce makes each another one, so that a ref never returns to what it was."""
    said = {
        "holder": f"{os.uname().nodename}:{os.getpid()}", "expiresAt": round(time.time() + ttl_s, 3), "ttl": ttl_s,
        "nonce": secrets.token_hex(8),
    }  # fmt: skip
    given = json.dumps(said, sort_keys=True).encode()
    return remote.repository.run("hash-object", "-w", "--stdin", given=given).stdout.decode().strip()


def _read(remote: Remote, blob: str) -> tuple[float, float] | None:
    """(expires at, time to live) of a lease, None for what is no lease."""
    result = remote.repository.run("cat-file", "blob", blob, check=False)
    if result.code != 0 or len(result.stdout) > _MAX_BYTES:
        return None
    try:
        said: Any = json.loads(result.stdout)
        expires, ttl_s = said["expiresAt"], said["ttl"]
    except (ValueError, KeyError, TypeError):
        return None
    numbers = all(isinstance(n, int | float) and not isinstance(n, bool) for n in (expires, ttl_s))
    return (float(expires), float(ttl_s)) if numbers and 0 < ttl_s <= 86_400 else None
