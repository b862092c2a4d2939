# SPDX-License-Identifier: Apache-2.0
"""`schedctl top`: workloads, their wakeup latency, and who schedules them, window after window.

On a terminal it is a view of its own; without one, frames are printed plainly, one unless `-n` asks for more. Windows
are observed in a thread, so that keys are answered while one is open; when the view ends the probes are closed under
it. Who schedules is read anew for each frame: from the kernel, and from what the agent of this machine left behind
where that can be read.
"""

from __future__ import annotations

import contextlib
import threading
from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING

from controller.cli.command import Parser, UsageError, Verb
from controller.cli.context import Context
from controller.cli.observe import caveats, desired_if_any, profile_file, read
from controller.cli.profile import has_blocks
from controller.cli.screen import ENDED, Screen
from controller.cli.topframe import HELP, SORTS, Frame, Scheduler, lines
from controller.cli.wait import seconds
from controller.errors import InputError, SchedctlError

if TYPE_CHECKING:
    from controller.api import NodeScheduler, WorkloadProfile

_FOREVER = 3600.0


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "-d", "--delay", metavar="TIME", default="2s", help="length of a window, and of a frame (default: 2s)"
    )
    parser.add_argument("-n", "--frames", metavar="N", type=int, help="end after so many frames")
    parser.add_argument("--once", action="store_true", help="one plain frame, the same as -n 1 without a terminal")
    parser.add_argument(
        "--sort", metavar="FIELD", default=SORTS[0], help=f"one of {', '.join(SORTS)} (default: {SORTS[0]})"
    )
    profile_file(parser)
    parser.add_argument("--procfs", action="store_true", help="sample /proc instead of tracing in the kernel")


def _top(args: Namespace, context: Context) -> int:
    delay = seconds(args.delay, "--delay")
    if not 0.1 <= delay <= 3600:
        raise InputError(f'invalid argument "{args.delay}" for "--delay" flag: must be at least 100ms and at most 1h')
    if args.sort not in SORTS:
        raise InputError(f'invalid argument "{args.sort}" for "--sort" flag: must be one of {", ".join(SORTS)}')
    if args.frames is not None and args.frames < 1:
        raise InputError(f'invalid argument "{args.frames}" for "--frames" flag: must be at least 1')
    blocks = has_blocks(context.stdout, context.environ.get("TERM", ""))
    if args.filename:
        if args.procfs:
            raise UsageError("a recorded profile (-f) does not go with --procfs")
        profile = read(args.filename, context)
        caveats(profile, context)
        _print(Frame(profile, None, args.sort, blocks=blocks), context)
        return 0
    with _Windows(args, context, delay) as windows:
        if args.once or args.frames == 1 or not _interactive(context):
            for _ in range(1 if args.once else args.frames or 1):
                _print(Frame(windows.next(), scheduler(args, context), args.sort, blocks=blocks), context)
            return 0
        return _View(args, context, windows, blocks).run()


def _interactive(context: Context) -> bool:
    return context.stdin.isatty() and context.stdout.isatty() and context.environ.get("TERM", "") not in ("", "dumb")


def _print(frame: Frame, context: Context) -> None:
    text, _ = lines(frame)
    context.out("\n".join(text))
    context.stdout.flush()


class _Windows:
    """Profiles of this machine, one window after the other, the probes kept from one to the next."""

    def __init__(self, args: Namespace, context: Context, delay: float) -> None:
        desired = desired_if_any(args, context)
        self._intents = desired.intents if desired is not None else ()
        self._delay, self._procfs = delay, args.procfs

    def __enter__(self) -> _Windows:
        from controller import observe

        self._probes = observe.Probes()
        return self

    def __exit__(self, *_: object) -> None:
        self._probes.close()

    def next(self) -> WorkloadProfile:
        """Observe one window; returns when it has closed."""
        from controller import observe

        return observe.profile(
            self._delay, intents=self._intents, force_procfs=self._procfs, probes=None if self._procfs else self._probes
        )


class _Watcher(threading.Thread):
    """Takes windows for as long as `go_on` is set, hands over each, and holds what went wrong."""

    def __init__(self, windows: _Windows, wake: Callable[[], None]) -> None:
        super().__init__(daemon=True, name="windows")
        self._windows, self._wake = windows, wake
        self._newest: WorkloadProfile | None = None
        self.error: BaseException | None = None
        self.go_on, self.ended = threading.Event(), False
        self.go_on.set()

    def run(self) -> None:
        """Until `ended`, or until a window fails."""
        try:
            while not self.ended:
                self._newest = self._windows.next()
                self._wake()
                self.go_on.wait()
        except BaseException as error:  # noqa: BLE001 - the view's thread raises it, unless it caused it by ending
            self.error = error
            self._wake()

    def taken(self) -> WorkloadProfile | None:
        """The newest profile, if there is one that was not asked for yet."""
        newest, self._newest = self._newest, None
        return newest


class _View:
    """The view on a terminal: what it shows, and what its keys do."""

    def __init__(self, args: Namespace, context: Context, windows: _Windows, blocks: bool) -> None:
        self._args, self._context, self._windows, self._blocks = args, context, windows, blocks
        self._sort, self._paused, self._help = args.sort, False, False
        self._frames = 0
        self._frame: Frame | None = None

    def run(self) -> int:
        """Until a key, a signal, the last frame or an error ends it; the terminal is as it was then."""
        with Screen(self._context.stdin.fileno(), self._context.stdout.fileno()) as screen:
            watcher = _Watcher(self._windows, screen.wake)
            watcher.start()
            try:
                self._loop(screen, watcher)
            finally:
                watcher.ended = True
                watcher.go_on.set()
        if watcher.error is not None and isinstance(watcher.error, Exception):
            raise watcher.error
        return 0

    def _loop(self, screen: Screen, watcher: _Watcher) -> None:
        self._draw(screen)
        while watcher.error is None:
            keys = screen.wait(_FOREVER)
            if keys == ENDED or any(self._quits(key, watcher) for key in keys):
                return
            profile = watcher.taken()
            if profile is not None and not self._paused:
                self._frame = Frame(profile, scheduler(self._args, self._context))
                self._frames += 1
            self._draw(screen)
            if self._args.frames is not None and self._frames >= self._args.frames:
                return

    def _quits(self, key: str, watcher: _Watcher) -> bool:
        match key:
            case "q" | "Q" | "\x03":
                return True
            case "s":
                self._sort = SORTS[(SORTS.index(self._sort) + 1) % len(SORTS)]
            case "p" | " ":
                self._paused = not self._paused
                (watcher.go_on.clear if self._paused else watcher.go_on.set)()
            case "h" | "?":
                self._help = not self._help
            case _:
                pass
        return False

    def _draw(self, screen: Screen) -> None:
        columns, rows = screen.size
        if self._help:
            screen.draw(HELP)
        elif self._frame is None:
            screen.draw([f"observing for {self._args.delay} ..."])
        else:
            frame = Frame(self._frame.profile, self._frame.scheduler, self._sort, self._paused, self._blocks)
            text, head = lines(frame, columns, rows)
            screen.draw(text, reverse=(head,))


def scheduler(args: Namespace, context: Context) -> Scheduler:
    """Who schedules on this machine now."""
    from controller.kernel import schedext

    state = schedext.state()
    if not state:
        return Scheduler("")
    now = schedext.status()
    counters = {
        "enabled": schedext.enable_seq(), "rejected": schedext.nr_rejected(), "hotplugs": schedext.hotplug_seq()
    }  # fmt: skip
    revision, phase, held = _journalled(now.ops)
    node = _reported(args, context)
    ready = node.status.condition("Ready") if node is not None and node.status is not None else None
    return Scheduler(
        now.state, now.ops, revision, phase, held, f"{ready.reason}: {ready.message}" if ready else "", counters,
        schedext.events(),
    )  # fmt: skip


def _journalled(ops: str) -> tuple[str, str, bool]:
    """Revision and phase of the attached scheduler, by the agent's journal, and whether `eject` holds the node."""
    from controller.deploy.eject import is_held
    from controller.deploy.journal import peek
    from controller.paths import state_dir

    with contextlib.suppress(OSError):
        record = peek(state_dir())
        held = is_held(state_dir())
        return (
            (record.revision, record.phase, held) if record is not None and record.ops_name == ops else ("", "", held)
        )
    return "", "", False


def _reported(args: Namespace, context: Context) -> NodeScheduler | None:
    """What this machine's agent last wrote into the policy repository, if there is one here."""
    from controller.cli.agent import node_name

    with contextlib.suppress(SchedctlError, OSError):
        name = node_name()
        return next((node for node in context.store(args).nodes() if node.name == name), None)
    return None


TOP = Verb(
    run=_top, arguments=_arguments, usage="[-d 2s] [-n N | --once] [--sort cpu|p99|p50|wakeups|name] [-f PROFILE]"
)
