# SPDX-License-Identifier: Apache-2.0
"""Trial: is the candidate better for the stated objective, and no worse for the rest.

One guest, the same workload again and again, by turns under the candidate, under the incumbent (if there is one) and
under the kernel's own scheduler. First the kernel's own scheduler against itself (A/A): that noise fixes how many
blocks of runs are needed to see the declared minimum detectable effect. If the time allowed does not hold so many, the
trial ends there, `inconclusive`, with the number of pairs that would do. Otherwise exactly that many blocks are run,
whatever they show on the way, each of them every arm once in one order and once in the reverse order (ABBA).

    better         the interval of the gain lies above 0, and not within ± the minimum detectable effect
    worse          it lies below 0, likewise; or a guardrail is shown to be broken
    equivalent     the interval lies within ± the minimum detectable effect
    inconclusive   none of these: more pairs are needed

Of the verdicts against several arms the least favourable is the trial's. The stage passes with `better` and
`equivalent`; `worse` is `rejected`; `inconclusive` is `error`, for nothing was shown either way. A guardrail that is
neither shown broken nor shown kept is a warning. All samples are kept in one document from which `recompute` gives the
same result again.

spec        what to try, and how it follows from a proposal      statistics  intervals, calibration, Holm: functions
workloads   what runs in the guest and what it tells             design      the order of runs
runner      the runs, within a budget                            analysis    the document of samples → the result
arms        switches schedulers in the guest                     outcome     the result, and how a trial fails
kept        arms in a guest that stays, block after block

Numpy and scipy are loaded by `analysis` and `runner` alone.
"""

from controller.verify.trial.outcome import TrialInconclusive, TrialRejected, TrialResult
from controller.verify.trial.spec import Guardrail, TrialSpec, spec_for

__all__ = ["Guardrail", "TrialInconclusive", "TrialRejected", "TrialResult", "TrialSpec", "recompute", "spec_for"]


def recompute(raw: bytes) -> TrialResult:
    """The result of the trial whose samples are `raw` (`trial-RELEASE.json`). InputError for what is no such thing."""
    from controller.verify.trial.analysis import recompute

    return recompute(raw)
