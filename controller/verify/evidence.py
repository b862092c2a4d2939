# SPDX-License-Identifier: Apache-2.0
"""Evidence files as they are kept: the same bytes for the same content, small enough for a policy repository.

A repository refuses files over 1 MiB, so what is large is compressed (gzip without a time stamp, so that the digest in
the passport depends on the content alone), and a log that a guest flooded keeps its beginning and its end.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Mapping

LOG_BYTES = 256 << 10
_AS_IT_IS = 32 << 10
_SUFFIX = ".gz"


def packed(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Each file, by the name it is kept under: `NAME.gz` when it is larger than 32 KiB."""
    kept = {}
    for name, data in files.items():
        whole = clipped(data) if name.endswith(".txt") else data
        small = len(whole) <= _AS_IT_IS or name.endswith(_SUFFIX)
        kept[name if small else name + _SUFFIX] = whole if small else gzip.compress(whole, mtime=0)
    return kept


def unpacked(name: str, data: bytes, *, limit: int = 64 << 20) -> bytes:
    """What was packed under `name`. ValueError when it is no gzip, or holds more than `limit` bytes."""
    if not name.endswith(_SUFFIX):
        return data
    if not data:  # which gzip takes for nothing at all, well packed
        raise ValueError(f"{name} is empty")
    try:
        with gzip.open(io.BytesIO(data)) as file:
            whole = file.read(limit + 1)
    except (OSError, EOFError) as error:
        raise ValueError(f"{name} is not what gzip makes: {error}") from error
    if len(whole) > limit:
        raise ValueError(f"{name} holds more than {limit} bytes")
    return whole


def clipped(log: bytes) -> bytes:
    """A log of at most 256 KiB: its beginning and its end, with a line between them that says what is left out."""
    if len(log) <= LOG_BYTES:
        return log
    half = LOG_BYTES // 2
    return log[:half] + b"\n[... %d bytes left out ...]\n" % (len(log) - 2 * half) + log[-half:]
