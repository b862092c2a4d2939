# SPDX-License-Identifier: Apache-2.0
"""Bundle: a folder of files addressed by one digest: that of its `bundle.json`, which names every file's.

Bundles of campaigns are kept in the state folder, the newest 64 and at most 256 MiB of them; what is older goes. A
bundle is written beside its place and renamed, so there is never half of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from controller import paths
from controller.api import ApiModel, sha256
from controller.api.decode import whole
from controller.errors import InputError

FORMAT = "schedctl.dev/campaign/v1"
INDEX = "bundle.json"
MAX_KEPT = 64
MAX_KEPT_BYTES = 256 << 20
MAX_FILE_BYTES = 64 << 20
MAX_PLACE = 200
"""Of a place in a file, which may be named by whoever made the file."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}(/[A-Za-z0-9][A-Za-z0-9._+-]{0,127})?")
_DIGEST = re.compile(r"(sha256:)?([0-9a-f]{8,64})")

M = TypeVar("M", bound=ApiModel)


@dataclass(frozen=True)
class Bundle:
    """What was read: the files that are there, and a sentence for each that is not what the index names."""

    digest: str
    files: Mapping[str, bytes]
    problems: Mapping[str, str] = field(default_factory=dict)


def index_of(files: Mapping[str, bytes]) -> bytes:
    """The bytes of `bundle.json`."""
    named = {name: {"digest": sha256(data), "size": len(data)} for name, data in sorted(files.items())}
    return json.dumps({"format": FORMAT, "files": named}, sort_keys=True, indent=1).encode() + b"\n"


def write(files: Mapping[str, bytes], folder: Path) -> str:
    """Write a new bundle at `folder` and return its digest. InputError when there is something, or it cannot be."""
    index = index_of(files)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'"{folder}" exists already', remedy="name a folder that is not there yet")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".bundle-", dir=folder.parent))
        try:
            for name, data in {**files, INDEX: index}.items():
                path = made / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(data)
            made.chmod(0o755)
            made.replace(folder)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise InputError(f'the bundle "{folder}" cannot be written: {error.strerror}') from error
    return sha256(index)


def read(folder: Path) -> Bundle:
    """The bundle at `folder`. InputError when it has no readable index."""
    try:
        raw = (folder / INDEX).read_bytes()
        index: Any = json.loads(raw)
        named = {str(name): (str(one["digest"]), int(one["size"])) for name, one in index["files"].items()}
    except OSError as error:
        raise InputError(f'"{folder}" is no bundle: {INDEX}: {error.strerror}', remedy=_REMEDY) from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f'"{folder}" is no bundle: {INDEX} cannot be read: {error}', remedy=_REMEDY) from None
    if index.get("format") != FORMAT:
        raise InputError(f'"{folder}" has the format {index.get("format")!r:.80}, not {FORMAT}', remedy=_REMEDY)
    files: dict[str, bytes] = {}
    problems: dict[str, str] = {}
    for name, (digest, size) in sorted(named.items()):
        data, problem = _file(folder, name, digest, size)
        if data is not None:
            files[name] = data
        if problem:
            problems[name] = problem
    return Bundle(sha256(raw), files, problems)


_REMEDY = "`schedctl plan --record DIR` writes one, the planner keeps its own in the state folder"


def _file(folder: Path, name: str, digest: str, size: int) -> tuple[bytes | None, str]:
    """The bytes and what is wrong with them. A bundle comes from anywhere: names stay inside it."""
    if _NAME.fullmatch(name) is None:
        return None, "its name is none that a bundle has"
    try:
        path = folder / name
        if path.is_symlink() or not path.is_file():
            return None, "the file is missing"
        if path.stat().st_size > MAX_FILE_BYTES:
            return None, f"the file is larger than {MAX_FILE_BYTES >> 20} MiB"
        data = path.read_bytes()
    except OSError as error:
        return None, f"it cannot be read: {error.strerror}"
    found = sha256(data)
    if found == digest:
        return data, ""
    return data, f"was changed: it is {found} ({len(data)} bytes), the bundle names {digest} ({size} bytes)"


def raw(files: Mapping[str, bytes], name: str) -> bytes:
    """The bytes of one of a bundle's files. InputError when it is missing."""
    if name not in files:
        raise InputError(f"{name} is missing")
    return files[name]


def value(files: Mapping[str, bytes], name: str, model: type[M]) -> M:
    """One of a bundle's files, as a `model`. InputError, with file and place, when it is none or is missing."""
    return _held_to(model, _parsed(files, name), name)


def values(files: Mapping[str, bytes], name: str, model: type[M]) -> tuple[M, ...]:
    """The same of one that holds a list."""
    listed = _parsed(files, name)
    if not isinstance(listed, list):
        raise InputError(f"{name}: a list is needed")
    return tuple(_held_to(model, one, name, f"[{number}]") for number, one in enumerate(listed))


def _parsed(files: Mapping[str, bytes], name: str) -> Any:
    try:
        return json.loads(raw(files, name), parse_int=whole)
    except RecursionError:
        raise InputError(f"{name}: it is nested too deep") from None
    except ValueError as error:
        raise InputError(f"{name}: {error}") from None


def _held_to(model: type[M], found: Any, name: str, place: str = "") -> M:
    try:
        return model.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place += "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        why = first["msg"].removeprefix("Value error, ")
        raise InputError(": ".join(filter(None, (name, place.lstrip(".")[:MAX_PLACE], why)))) from None


def kept_folder() -> Path:
    """Where the planner keeps the bundles of its campaigns."""
    return paths.state_dir() / "campaigns"


def keep(files: Mapping[str, bytes]) -> str:
    """Keep a bundle in the state folder and return its digest; the oldest make room. InputError if it cannot be."""
    digest = sha256(index_of(files))
    place = kept_folder() / digest.removeprefix("sha256:")
    if not place.exists():
        write(files, place)
    _prune(kept_folder(), place)
    return digest


def find(named: str) -> Path:
    """The folder that is meant: a path, or the digest of one in the state folder (eight digits or more are enough)."""
    path = Path(named)
    if path.exists():
        return path
    match = _DIGEST.fullmatch(named)
    folder = kept_folder()
    found = sorted(folder.glob(f"{match[2]}*")) if match is not None and folder.is_dir() else []
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f'"{named}" is the beginning of {len(found)} bundles', remedy="give more of the digest")
    raise InputError(f'there is no bundle "{named}"', remedy=f"give a folder, or the digest of one in {folder}")


def _prune(folder: Path, newest: Path) -> None:
    sizes: list[tuple[float, Path, int]] = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
            sizes.append((path.stat().st_mtime if path != newest else float("inf"), path, size))
    total = 0
    for number, (_, path, size) in enumerate(sorted(sizes, key=lambda s: (s[0], s[1]), reverse=True)):
        total += size
        if path != newest and (number >= MAX_KEPT or total > MAX_KEPT_BYTES) and not path.name.startswith("."):
            # Renamed first, so that nobody finds half of it.
            doomed = path.with_name(f".gone-{os.getpid()}-{path.name}")
            with contextlib.suppress(OSError):
                path.replace(doomed)
                shutil.rmtree(doomed, ignore_errors=True)
