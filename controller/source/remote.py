# SPDX-License-Identifier: Apache-2.0
"""The remote `origin`, when the repository has one: it is the truth, and this copy follows it.

Fetched are its branches (to refs/remotes/origin), its status refs and its leases (to the same names here); pushed is
one ref at a time, only if it still is on the remote what it was here. The URL is whatever the repository's own
configuration says.
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.errors import RepositoryError
from controller.source.repository import Repository, last_line

STATUS_PREFIX = "refs/schedctl/status/"
LEASE_PREFIX = "refs/schedctl/lease/"
FETCH_DEADLINE_S = 20.0
PUSH_DEADLINE_S = 30.0

_LOST_RACE = ("[rejected]", "cannot lock ref", "failed to update ref", "reference already exists")


@dataclass(frozen=True)
class Remote:
    """`origin` of one repository; with `present` False every branch is its own truth."""

    repository: Repository
    present: bool

    def tracking(self, branch: str) -> str:
        """The ref here that shows where the branch is: origin's as last fetched, or the branch itself."""
        return f"refs/remotes/origin/{branch}" if self.present else f"refs/heads/{branch}"

    def fetch(self) -> None:
        """Bring origin's branches and statuses here. RepositoryError or DeadlineExceeded if that failed."""
        if not self.present:
            return
        options = ("--quiet", "--prune", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head")
        own = (f"+{prefix}*:{prefix}*" for prefix in (STATUS_PREFIX, LEASE_PREFIX))
        specs = ("+refs/heads/*:refs/remotes/origin/*", *own)
        result = self.repository.run(
            "fetch", *options, "origin", *specs, check=False, system_config=True, deadline_s=FETCH_DEADLINE_S
        )
        if result.code != 0:
            raise RepositoryError(
                f"fetching from origin failed: {last_line(result.stderr)}",
                remedy=f"try: git -C {self.repository.path} fetch origin",
            )

    def push(self, ref: str, new: str, old: str | None) -> bool:
        """Set `ref` on origin to `new` ("": remove it) if it still is `old` there (None: absent); False when somebody
        was faster."""
        lease = f"--force-with-lease={ref}:{old or ''}"
        options = ("--porcelain", "--no-verify", "--no-recurse-submodules", "--no-signed")
        result = self.repository.run(
            "-c", "remote.origin.mirror=false", "push", *options, lease, "origin", f"{new}:{ref}",
            check=False, system_config=True, deadline_s=PUSH_DEADLINE_S,
        )  # fmt: skip
        if result.code == 0:
            return True
        said = result.stdout.decode("utf-8", "replace") + result.stderr
        if any(sign in said for sign in _LOST_RACE):
            return False
        refused = next((line for line in said.splitlines() if line.startswith("!")), said)
        raise RepositoryError(
            f"pushing {ref} to origin failed: {last_line(refused)}",
            remedy=f"try: git -C {self.repository.path} push origin",
        )

    def publish(self, ref: str, new: str, old: str | None, seen: str, why: str) -> bool:
        """Move `ref` from `old` to `new` where the truth is; `seen` is its name here. False when a race was lost."""
        if not self.present:
            return self.repository.move_ref(ref, new, old, why)
        if not self.push(ref, new, old):
            self.fetch()
            return False
        now = self.repository.ref(seen)  # git has moved it already if origin has a fetch refspec
        if now != new:
            self.repository.move_ref(seen, new, now, why)
        return True

    def remove(self, ref: str, old: str) -> bool:
        """Remove `ref` where the truth is, and here, if it still is `old`; False when it is something else by now."""
        if self.present and not self.push(ref, "", old):
            self.fetch()
            return False
        if self.present and self.repository.ref(ref) is None:
            return True
        return self.repository.run("update-ref", "-d", ref, old, check=False).code == 0


def find_remote(repository: Repository) -> Remote:
    """`origin` as the repository's own configuration knows it."""
    result = repository.run("config", "--local", "--get-all", "remote.origin.url", check=False)
    return Remote(repository, result.code == 0 and bool(result.stdout.strip()))
