# SPDX-License-Identifier: Apache-2.0
"""The command line itself: unknown words, help, errors, signals, start-up."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from controller import __version__
from controller.cli import completion, machine
from controller.cli.command import Parser, Verb
from controller.cli.context import Context
from controller.cli.main import VERBS, main
from controller.errors import CouldNotTell, SchedctlError, ToolMissing
from tests.cli.harness import check_golden, run, transcript

HEAVY = ("anthropic", "bcc", "mcp", "optuna", "lightkube", "tree_sitter", "git", "cryptography", "watchdog", "jinja2")


def schedctl(*argv: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "controller.cli.main", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)


def test_unknown_words():
    lines = [
        "frob", "gte", "node frob", "node strat", "get --frob", "get -z", "get intent -o", "--frob", "version extra",
        "-n x version", "observe --for 10", "observe frob", "key trust", "node exec", "node exec n1", "node stop",
        "agent run --role king",
        "completion", "completion fish", "agent run --label x", "render", "plan -f a --node b", "eject --force=yes",
    ]  # fmt: skip
    check_golden("unknown", transcript(lines, None))


def test_help():
    check_golden("help", transcript(["--help", "help get", "node", "apply -h", "node exec --help", "observe -h"], None))


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_and_refuses_what_it_does_not_know(name):
    said = run(*name.split(), "--help")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(VERBS[name].summary + "\n")
    assert f"schedctl {name}" in said.out
    wrong = run(*name.split(), "--frob")
    assert wrong.code == (2 if name in ("diff", "verify", "passport verify", "observe diff") else 1)
    assert wrong.err == f"error: unknown flag: --frob\nSee 'schedctl {name} --help' for usage.\n"


def test_importing_the_cli_is_light():
    modules = ["controller.cli.main"]
    modules += sorted({f"controller.cli.{entry.module}" for entry in VERBS.values()})
    code = f"import sys, {', '.join(modules)}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_version_loads_no_models():
    code = "import sys; from controller.cli.main import main; main(['version']); print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [f"schedctl {__version__}", "False"]


def test_version_formats():
    assert run("--version").out == run("version").out == f"schedctl {__version__}\n"
    assert f'"version": "{__version__}"' in run("version", "-o", "json").out
    assert run("version", "-o", "yaml").out.startswith(f"version: {__version__}\n")


@pytest.fixture
def failing(monkeypatch):
    """Make `version` raise."""

    def install(error: BaseException, failure: int = 1) -> None:
        def fail(args, context: Context) -> int:
            context.out("some data")
            raise error

        monkeypatch.setattr(machine, "VERSION", Verb(run=fail, failure=failure))

    return install


@pytest.mark.parametrize(
    ("error", "failure", "code", "text"),
    [
        (SchedctlError("no", remedy="do this"), 1, 1, "error: no (do this)\n"),
        (SchedctlError("no\x1b[31m"), 1, 1, "error: no\\x1b[31m\n"),
        (
            ToolMissing("no clang", remedy="apt-get install clang-19"),
            1,
            2,
            "error: no clang (apt-get install clang-19)\n",
        ),
        (CouldNotTell("gone"), 1, 2, "error: gone\n"),
        (SchedctlError("no"), 2, 2, "error: no\n"),
    ],
)
def test_errors_are_a_line_and_an_exit_code(failing, error, failure, code, text):
    failing(error, failure)
    said = run("version")
    assert (said.code, said.out, said.err) == (code, "some data\n", text)


def test_a_bug_is_called_one_and_has_its_traceback_on_request(failing):
    failing(KeyError("x"))
    said = run("version")
    assert said.code == 2
    assert said.err.splitlines()[0] == "error: this is a bug in schedctl: KeyError: 'x'"
    assert "Traceback" not in said.err
    assert "Traceback" in run("version", SCHEDCTL_DEBUG="1").err


def test_interrupt_is_130_without_a_word(failing):
    failing(KeyboardInterrupt())
    said = run("version")
    assert (said.code, said.err) == (130, "")


def test_interrupt_of_the_process(tmp_path):
    # A shell ignores the signal for what it runs in the background, and an ignored signal is inherited.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "controller.cli.main"]
    command += ["observe", "--procfs", "--for", "50s"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path.cwd())},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
    try:
        # By then the module of the verb is loaded: an earlier signal would find the interpreter starting.
        while "pydantic" not in Path(f"/proc/{process.pid}/maps").read_text():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, "")


def test_a_reader_that_goes_away_is_no_error():
    shell = f"{sys.executable} -m controller.cli.main explain nsch --recursive | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "141")  # 0 when all was written before the reader went


def test_a_pipe_that_is_closed_under_a_large_output(tmp_path):
    code = (
        "import sys\nfrom controller.cli import machine\nfrom controller.cli.command import Verb\n"
        "from controller.cli.main import main\n"
        "machine.VERSION = Verb(run=lambda a, c: [c.out('x' * 4096) for _ in range(1000)] and 0)\n"
        "sys.exit(main(['version']))\n"
    )
    shell = f'{sys.executable} -c "$CODE" | head -c 10 >/dev/null; echo ${{PIPESTATUS[0]}}'
    env = {**os.environ, "CODE": code}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60, check=False, env=env)
    assert (done.stdout.strip(), done.stderr) == ("141", "")


def test_progress_goes_to_a_terminal_alone(tmp_path):
    quiet = run("crd", "generate", "--dir", str(tmp_path / "a"))
    assert quiet.err == ""
    loud = run("observe", "--procfs", "--for", "50ms", "-o", "json", tty=True)
    silent = run("observe", "--procfs", "--for", "50ms", "-o", "json")
    assert re.match(r"► observing for 50ms\n", loud.err)
    assert silent.err == ""
    assert silent.out.startswith("{")


def test_names_that_cannot_be_printed_are_escaped_not_fatal():
    said = schedctl("explain", "\udcff\x1b", env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"})
    assert said.returncode == 1
    assert said.stderr.startswith("error: the server doesn't have a resource type")
    assert "\x1b" not in said.stderr


def test_namespace_may_stand_before_the_verb(repo):
    before = run("-n", "shop", "get", "intent", repo=repo)
    after = run("get", "intent", "--namespace=shop", repo=repo)
    between = run("get", "intent", "-n", "shop", "checkout", repo=repo)
    named = run("--repo", str(repo), "get", "intent", "-nshop")
    assert before == after == between == named
    assert "checkout" in before.out


def test_the_environment_names_the_repository_and_the_flag_wins(repo, empty):
    assert run("get", "intent", "-o", "name", repo=repo).out == "schedulingintent.schedctl.dev/web\n"
    assert run("get", "intent", "--repo", str(empty), repo=repo).code == 1


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_names_every_verb_and_flag(shell):
    script = run("completion", shell).out
    for name, entry in VERBS.items():
        verb = getattr(import_module(f"controller.cli.{entry.module}"), entry.name)
        assert f'"{name}") words="' + " ".join(Parser(name, "", verb).flags()) + '"' in script
    assert script == completion.script(shell)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ver"], "verify version"),
        (["node", "s"], "start stop"),
        (["get", "int"], "intent"),
        (["get", "--no"], "--no-headers"),
        (["-n", "x", "describe", "sp"], "spol"),
        (["node", "start", "--ker"], "--kernel"),
        (["observe", "s"], "schema"),
        (["observe", "twin", "--ch"], "--check"),
        (["observe", "--for", "10s", "--rec"], "--record"),
        (["observe", "schema", "--re"], "--repo"),
        (["frob", ""], ""),
    ],
)
def test_completion_in_bash(words, expected):
    array = " ".join(f"'{word}'" for word in ["schedctl", *words])
    call = f"COMP_WORDS=({array}); COMP_CWORD={len(words)}; _schedctl; echo ${{COMPREPLY[@]}}"
    script = f"{completion.script('bash')}\n{call}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_main_takes_a_context_of_its_own():
    out = io.StringIO()
    assert main(["version"], Context(stdout=out)) == 0
    assert out.getvalue() == f"schedctl {__version__}\n"
