# SPDX-License-Identifier: Apache-2.0
"""What a scenario is, and the list of them. A limit is data: the judge and the sentence that explains it read the same.

@scenario("fork-storm", asks="…", load="…", limits=(Limit("forks", "below", 0.05, of="the number of forks"),))
def fork_storm(arena: Arena) -> Numbers: …
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from controller.verify.scenarios.arena import Arena, Numbers

STARVED = 0.2
"""Less than this part of what the kernel's own scheduler gave is starvation."""

_SCENARIOS: dict[str, Scenario] = {}


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a scenario has against a candidate; `warn` when it is no question of life and death."""

    message: str
    severity: Literal["error", "warn"] = "error"


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure (its unit ends its name) must not be beyond `factor` × the kernel's own + `plus`.

    `of` is the figure in words, `means` what it means for a machine when the limit is broken.
    """

    figure: str
    worse: Literal["above", "below"]
    factor: float
    plus: float = 0.0
    of: str = ""
    means: str = ""
    severity: Literal["error", "warn"] = "error"

    def bound(self, kernel: Numbers) -> float:
        """The last value that is still allowed."""
        return self.factor * kernel[self.figure] + self.plus

    def loosened(self, kernel: Numbers) -> float:
        """How much the kernel's own figure adds to the limit, as a multiple of the allowance; 0 where there is none.

        Waits only: a figure in seconds is the length of the load itself.
        """
        waits = self.worse == "above" and self.plus > 0 and self.figure.endswith(("_us", "_ms"))
        if not waits or self.figure not in kernel:
            return 0.0
        return self.factor * kernel[self.figure] / self.plus

    def complaint(self, mine: Numbers, kernel: Numbers) -> Complaint | None:
        """What to say of `mine`; None when it is within the limit, or the load does not give this figure here."""
        if self.figure not in kernel:
            return None
        value, bound = mine[self.figure], self.bound(kernel)
        if (value <= bound) if self.worse == "above" else (value >= bound):
            return None
        told = f"{self.of}: {self._text(value)}, {self._text(kernel[self.figure])} with the kernel's own scheduler"
        return Complaint(
            f"{told} (the limit is {self._text(bound)}){': ' if self.means else ''}{self.means}", self.severity
        )

    def sentence(self) -> str:
        """The limit in words."""
        than = "more" if self.worse == "above" else "less"
        plus = f" plus {self._text(self.plus)}" if self.plus else ""
        factor = f"{self.factor:g} times" if self.factor >= 1 else f"{self.factor:.3g} of"
        mild = " (a warning only)" if self.severity == "warn" else ""
        return f"{self.of} is {than} than {factor} the kernel's own{plus}{mild}"

    def _text(self, value: float) -> str:
        if self.figure.endswith("share"):
            return f"{value:.2%}"
        for suffix, milliseconds in (("_us", 1e-3), ("_ms", 1.0), ("_s", 1e3)):
            if self.figure.endswith(suffix):
                ms = value * milliseconds
                return f"{ms / 1e3:.1f} s" if ms >= 1000 else f"{ms:.1f} ms"
        return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. `measure` gives numbers (unit last in the name), `limits` compare candidate and baseline."""

    name: str
    asks: str
    load: str
    measure: Callable[[Arena], Numbers]
    limits: tuple[Limit, ...]
    also_fails: str = ""
    least_cpus: int = 1
    compared: bool = True
    """Whether the kernel's own scheduler is measured as well; without it, only what the candidate does counts."""

    @property
    def fails_if(self) -> str:
        """What it takes to fail it, in one sentence."""
        return "; or ".join(
            [limit.sentence() for limit in self.limits] + ([self.also_fails] if self.also_fails else [])
        )

    def judge(self, mine: Numbers, kernel: Numbers) -> Sequence[Complaint]:
        """What there is to say against the candidate's numbers, errors first."""
        found = [complaint for limit in self.limits if (complaint := limit.complaint(mine, kernel)) is not None]
        return sorted(found, key=lambda complaint: complaint.severity)

    def loosened(self, kernel: Numbers) -> float:
        """How far a baseline widens the limits: above 1, a busy machine had more say in one than its allowance has."""
        return max((limit.loosened(kernel) for limit in self.limits), default=0.0)

    def not_here(self, cpus: int) -> str:
        """Why it does not apply to a guest of that many CPUs, or ""."""
        return "" if cpus >= self.least_cpus else f"it takes {self.least_cpus} CPUs, and the guest has {cpus}"


def scenario(
    name: str,
    *,
    asks: str,
    load: str,
    limits: tuple[Limit, ...] = (),
    also_fails: str = "",
    least_cpus: int = 1,
    compared: bool = True,
) -> Callable[[Callable[[Arena], Numbers]], Scenario]:
    """Registers the function below it as the `measure` of a scenario."""

    def add(measure: Callable[[Arena], Numbers]) -> Scenario:
        made = Scenario(name, asks, load, measure, limits, also_fails, least_cpus, compared)
        if _SCENARIOS.setdefault(name, made) is not made:
            raise ValueError(f"two scenarios are called {name}")
        return made

    return add


def registered() -> dict[str, Scenario]:
    """Every scenario by name."""
    return _SCENARIOS
