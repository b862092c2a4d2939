# SPDX-License-Identifier: Apache-2.0
"""`schedctl top` on real terminals: what it shows in which size, its keys, and that it always ends well."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import controller
from controller.cli.topframe import Frame, Scheduler, lines
from controller.deploy.journal import Journal, Record, peek
from controller.kernel import schedext
from tests.cli.harness import T0, check_golden, run
from tests.cli.test_tables import profile
from tests.conftest import missing

COMMAND = [sys.executable, "-m", "controller.cli.main", "top"]
LIVE = ["--procfs", "-d", "200ms"]
SCHEDULER = Scheduler(
    "enabled", "schedctl_0123456789ab", "default-0123456789", "Promoted", False, "Promoted: it passed its probation",
    {"enabled": 3, "rejected": 0, "hotplugs": 1},
    {"SCX_EV_SELECT_CPU_FALLBACK": 0, "SCX_EV_ENQ_SLICE_DFL": 12},
)  # fmt: skip
_TIMEOUT_S = 60


@dataclass
class Terminal:
    """A program on a pseudo-terminal: what it wrote so far, and the terminal's settings before it began."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    before: list
    text: bytes = b""
    seen: int = field(default=0)

    def until(self, pattern: bytes) -> str:
        """What it writes from the last match on up to this one."""
        end = time.monotonic() + _TIMEOUT_S
        while (found := re.search(pattern, self.text[self.seen :], re.DOTALL)) is None:
            if not self._more(end):
                raise AssertionError(f"no {pattern!r} in {self.text[self.seen :][-3000:]!r}")
        start, self.seen = self.seen, self.seen + found.end()
        return self.text[start : self.seen].decode()

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def ends(self) -> tuple[int, bytes]:
        """Its exit code and the last it wrote; the terminal must be as it was."""
        end = time.monotonic() + _TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < end:
            self._more(time.monotonic() + 0.1)
        while self._more(time.monotonic() + 0.1):
            pass
        assert self.process.returncode is not None, self.text
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode, self.text

    def _more(self, end: float) -> bool:
        if not select.select([self.master], [], [], max(end - time.monotonic(), 0))[0]:
            return False
        self.text += os.read(self.master, 1 << 16)
        return True


@contextmanager
def terminal(
    *argv: str, columns: int = 80, rows: int = 24, command: list[str] = COMMAND, **env: str
) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environ = {
        **os.environ,
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
        "PYTHONPATH": str(Path(controller.__file__).parents[1]),
    }
    process = subprocess.Popen(
        [*command, *argv], stdin=slave, stdout=slave, stderr=slave, env={**environ, **env}, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # a controlling terminal of its own
    )  # fmt: skip
    try:
        yield Terminal(process, master, slave, termios.tcgetattr(slave))
    finally:
        process.kill()
        process.wait()
        for descriptor in (master, slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def rows_of(text: str) -> list[str]:
    """`ROW;text` of each row that was drawn, without its colours."""
    bare = re.sub(r"\x1b\[(?:7m|0m|K)", "", text)
    return [f"{row};{line}" for row, line in re.findall(r"\x1b\[(\d+);1H([^\x1b]*)", bare)]


@pytest.fixture(autouse=True)
def homes(tmp_path, monkeypatch):
    """No policy repository, and a state folder of this test alone."""
    monkeypatch.setenv("SCHEDCTL_STATE", str(tmp_path))
    monkeypatch.delenv("SCHEDCTL_REPO", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def frame(**changes) -> Frame:
    return Frame(**{"profile": profile(), "scheduler": SCHEDULER, **changes})


def test_frames_to_the_letter():
    text = "".join(
        f"--- {name}\n" + "\n".join(line.rstrip() for line in lines(each, *size)[0]) + "\n"
        for name, each, *size in [
            ("80x24", frame(), 80, 24),
            ("100x12, by name, paused", frame(sort="name", paused=True), 100, 12),
            ("40x10", frame(), 40, 10),
            ("plain, recorded", frame(scheduler=None)),
            ("plain, no sched_ext", frame(scheduler=Scheduler(""))),
            ("plain, held", frame(scheduler=Scheduler("disabled", held=True))),
        ]
    )
    check_golden("top", text)


@pytest.mark.parametrize("columns", [1, 10, 40, 79, 80, 81, 132, 300])
@pytest.mark.parametrize("rows", [1, 2, 5, 24, 60])
def test_a_frame_fits_its_terminal(columns, rows):
    text, head = lines(frame(blocks=True), columns, rows)
    assert len(text) <= rows
    assert head == 5  # title, machine, scheduler, counters, agent
    if rows == 24 and columns >= 80:
        assert all(len(line) <= columns for line in text[head : head + 4])
        assert text[head].split() == ["WORKLOAD", "CLASS", "TASKS", "CPU%", "WAKE/S", "P50", "P99", "1us..1s"]


def test_orders():
    def names(sort: str) -> list[str]:
        text, head = lines(frame(sort=sort))
        return [line.split()[0] for line in text[head + 1 :]]

    assert names("cpu") == ["shop/checkout", "a\\x1b[31mname", "others"]
    assert names("name") == ["a\\x1b[31mname", "others", "shop/checkout"]
    assert names("p99")[0] == names("p50")[0] == names("wakeups")[0] == "shop/checkout"


def test_names_are_one_column_a_character():
    named = profile().workloads[0].model_copy(update={"name": "/deep/" * 20 + "日本\x1b[2J.service"})
    text, _ = lines(frame(profile=profile().model_copy(update={"workloads": (named,), "node": "日\x07"})), 80, 24)
    assert all(" " <= character <= "~" for line in text for character in line)
    assert any(".service latency" in line and line.startswith("..") for line in text)


def test_a_recorded_profile_is_one_frame():
    said = run("top", "-f", "-", stdin=profile().canonical())
    assert (said.code, said.err) == (0, "")
    assert said.out == "\n".join(lines(frame(scheduler=None))[0]) + "\n"
    assert run("top", "-f", "-", "--procfs", stdin=profile().canonical()).code == 1
    assert run("top", "-f", "nofile").err == 'error: the path "nofile" does not exist\n'


def test_without_a_terminal_frames_are_plain():
    for argv, frames in ((["--once"], 1), ([], 1), (["-n", "2"], 2)):
        said = run("top", "--procfs", "-d", "100ms", *argv)
        assert said.code == 0
        assert said.out.count("WORKLOAD") == frames
        assert "\x1b" not in said.out


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["-d", "10"], 'invalid argument "10" for "--delay" flag'),
        (["-d", "1ms"], "must be at least 100ms"),
        (["--sort", "size"], "must be one of cpu, p99, p50, wakeups, name"),
        (["-n", "0"], "must be at least 1"),
        (["-n", "many"], 'invalid argument "many" for "--frames" flag'),
        (["frob"], 'unexpected argument "frob"'),
    ],
)
def test_it_refuses(argv, error):
    said = run("top", *argv)
    assert (said.code, said.out) == (1, "")
    assert error in said.err


def test_keys_on_a_terminal_of_80_by_24():
    with terminal(*LIVE) as view:
        view.until(rb"\x1b\[\?1049h")
        text = view.until(rb"WORKLOAD.*h help")
        assert "sort: cpu" in text
        assert rows_of(text)[-1].startswith("24;q quit")
        view.type(b"s")
        view.until(rb"sort: p99.*h help")
        view.type(b"p")
        view.until(rb"PAUSED.*go on.*h help")
        view.type(b" ")
        view.until(rb"p pause.*h help")
        view.type(b"h")
        view.until(rb"sort by the next of")
        view.type(b"\x1b[A\x1bOq?")  # arrows do nothing, not even as the keys they are made of
        view.until(rb"h help")
        view.type(b"q")
        code, text = view.ends()
        assert code == 0
        assert text.endswith(b"\x1b[?1049l")


def test_a_terminal_that_changes_its_size():
    with terminal(*LIVE) as view:
        view.until(rb"WORKLOAD.*h help")
        view.resize(40, 9)
        small = rows_of(view.until(rb"\x1b\[9;1Hq quit[^\x1b]*"))
        assert [line.partition(";")[0] for line in small[-9:]] == [str(number) for number in range(1, 10)]
        assert max(len(line.partition(";")[2]) for line in small[-9:]) == 40
        view.resize(100, 30)
        view.until(rb"\x1b\[30;1Hq quit")
        view.type(b"q")
        assert view.ends()[0] == 0


@pytest.mark.parametrize("how", ["^C", "^\\", "TERM", "HUP", "-n 2"])
def test_however_it_ends_the_terminal_is_given_back(how):
    with terminal(*LIVE, *(how.split() if how.startswith("-n") else [])) as view:
        view.until(rb"WORKLOAD.*h help")
        if how.startswith("^"):
            view.type(b"\x03" if how == "^C" else b"\x1c")
        elif not how.startswith("-n"):
            view.process.send_signal(signal.Signals[f"SIG{how}"])
        code, text = view.ends()
        assert code == 0
        assert text.endswith(b"\x1b[?25h\x1b[?1049l")
        assert b"Traceback" not in text


def test_a_terminal_that_closes_ends_it():
    with terminal(*LIVE) as view:
        view.until(rb"WORKLOAD.*h help")
        os.close(view.slave)
        os.close(view.master)
        assert view.process.wait(timeout=_TIMEOUT_S) == 0


def test_an_error_gives_the_terminal_back_and_is_told():
    code = (
        "import sys, controller.observe as o\nfrom controller.cli.main import main\n"
        "from controller.errors import InputError\n"
        "def fail(*a, **k): raise InputError('no window', remedy='try')\n"
        "o.profile = fail\nsys.exit(main(['top']))\n"
    )
    with terminal(command=[sys.executable, "-c", code]) as view:
        code, text = view.ends()
        assert code == 1
        assert text.endswith(b"\x1b[?1049lerror: no window (try)\r\n")


def test_stopped_and_continued():
    with terminal(*LIVE) as view:
        view.until(rb"WORKLOAD.*h help")
        view.type(b"\x1a")
        view.until(rb"\x1b\[\?1049l")
        end = time.monotonic() + _TIMEOUT_S
        while Path(f"/proc/{view.process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < end
            time.sleep(0.02)
        assert termios.tcgetattr(view.slave) == view.before
        view.process.send_signal(signal.SIGCONT)
        view.until(rb"\x1b\[\?1049h.*WORKLOAD.*h help")
        view.type(b"q")
        assert view.ends()[0] == 0


def test_a_terminal_without_abilities_gets_a_plain_frame():
    with terminal(*LIVE, TERM="dumb") as view:
        code, text = view.ends()
        assert (code, text.count(b"WORKLOAD")) == (0, 1)
        assert b"\x1b" not in text


def test_bars_are_blocks_where_the_terminal_takes_utf8(homes):
    (homes / "p.json").write_bytes(profile().canonical())
    for locale, bar in (("C.UTF-8", "█····▁····"), ("C", "@....:....")):
        with terminal("-f", "p.json", LC_ALL=locale, PYTHONUTF8="0", PYTHONCOERCECLOCALE="0") as view:
            code, text = view.ends()
            assert (code, bar in text.decode()) == (0, True)


@pytest.mark.bcc
def test_the_probes_are_gone_with_it():
    if os.geteuid() != 0:
        missing("root", "run as root")
    with terminal("-d", "300ms") as view:
        text = view.until(rb"WORKLOAD.*h help")
        if "  bcc" not in text:
            missing("a bcc that can trace this host", "schedctl doctor")
        children = Path(f"/proc/{view.process.pid}/task/{view.process.pid}/children")
        probes = [int(pid) for pid in children.read_text().split()]
        for thread in children.parent.parent.iterdir():
            probes += [int(pid) for pid in (thread / "children").read_text().split()]
        assert probes
        view.type(b"q")
        assert view.ends()[0] == 0
    assert not [pid for pid in probes if Path(f"/proc/{pid}").exists()]


def test_in_tmux(homes):
    if shutil.which("tmux") is None:
        missing("tmux", "apt-get install tmux")
    socket = str(homes / "tmux")
    environ = {**os.environ, "PYTHONPATH": str(Path(controller.__file__).parents[1]), "LC_ALL": "C.UTF-8"}

    def tmux(*argv: str) -> str:
        done = subprocess.run(["tmux", "-S", socket, *argv], env=environ, capture_output=True, text=True, check=True)
        return done.stdout

    def until(pattern: str) -> str:
        end = time.monotonic() + _TIMEOUT_S
        while not re.search(pattern, shown := tmux("capture-pane", "-p"), re.DOTALL):
            assert time.monotonic() < end, shown
            time.sleep(0.1)
        return shown

    tmux("new-session", "-d", "-x", "80", "-y", "24", "sh")
    try:
        tmux("send-keys", " ".join([*COMMAND, *LIVE, "; echo ended $?"]), "Enter")
        shown = until(r"WORKLOAD.*h help")
        assert len(shown.rstrip("\n").split("\n")) == 24
        tmux("resize-window", "-x", "60", "-y", "12")
        until(r"\A[^\n]* window(?:[^\n]*\n){11}q quit")
        tmux("send-keys", "q")
        assert "q quit" not in until(r"ended 0")  # the alternate screen is left
    finally:
        tmux("kill-server")


def test_the_kernels_event_counters(tmp_path, monkeypatch):
    monkeypatch.setattr(schedext, "SYSFS", tmp_path)
    assert schedext.events() == {}
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "events").write_text("SCX_EV_A 3\nSCX_EV_B 0\nodd\n")
    assert schedext.events() == {"SCX_EV_A": 3, "SCX_EV_B": 0}


def test_the_journal_is_only_looked_at(tmp_path):
    assert peek(tmp_path) is None
    record = Record(
        revision="r", object_digest="o", passport_digest="p", ops_name="ops", since=T0, phase="Promoted", boot_id="b"
    )
    Journal(tmp_path).update(attached=record)
    assert peek(tmp_path) == record
    (tmp_path / "journal.json").write_text("{")
    assert peek(tmp_path) is None
    assert (tmp_path / "journal.json").read_text() == "{"
