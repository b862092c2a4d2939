# SPDX-License-Identifier: Apache-2.0
"""The log2-linear buckets that bpf/probes/sched.c counts in, as values of the API.

16 linear steps in each power of two: a bucket is at most 1/16 of its lower edge wide, so a value taken from its middle
is wrong by at most 3.2 %. Values under 16 ns have a bucket each; the last bucket takes all from 2^40 ns on.
"""

from __future__ import annotations

from collections.abc import Mapping

from controller.api.profile import Histogram

STEPS_LOG2 = 4
STEPS = 1 << STEPS_LOG2
MAX_VALUE = (1 << 40) - 1


def bucket_of(value: int) -> int:
    """The number of the bucket that counts `value` nanoseconds; the same arithmetic as the probe's."""
    value = min(value, MAX_VALUE)
    if value < STEPS:
        return value
    shift = value.bit_length() - 1 - STEPS_LOG2
    return (shift + 1) * STEPS + ((value >> shift) & (STEPS - 1))


def lower_edge(bucket: int) -> int:
    """The smallest value, in nanoseconds, that `bucket` counts."""
    if bucket < STEPS:
        return bucket
    shift = bucket // STEPS - 1
    return (STEPS + bucket % STEPS) << shift


def build(counts: Mapping[int, int], total_ns: int) -> Histogram:
    """Bucket number → events, and the sum of all values, as a Histogram; without events an empty one."""
    filled = sorted(bucket for bucket, events in counts.items() if events)
    return Histogram(
        edges=tuple(lower_edge(bucket) for bucket in filled),
        widths=tuple(lower_edge(bucket + 1) - lower_edge(bucket) for bucket in filled),
        counts=tuple(counts[bucket] for bucket in filled),
        total_ns=total_ns if filled else 0,
    )
