# SPDX-License-Identifier: Apache-2.0
"""A test whose guest QEMU's emulator broke is run once more, in a guest of its own: the fault was nobody's.

The emulator runs stale code now and then, which panics the guest's kernel (microvm.EmulatorFault). All tests of a
module share a guest, so one such fault would fail each that comes after it. Nothing else is run twice, and a second
fault fails. A failure shows what the guest's console said last.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest
from _pytest.runner import runtestprotocol

from controller.errors import GuestError
from controller.kernel.microvm import EmulatorFault

_BROKEN = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note that the emulator broke, and keep the console of a guest that did."""
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, EmulatorFault):
        item.stash[_BROKEN] = True
    report = yield
    if isinstance(error, GuestError) and error.console:
        report.sections.append(("the guest's console", error.console))
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test of mark `kernel`, again if need be; what is reported is the last run."""
    if item.get_closest_marker("kernel") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if item.stash.get(_BROKEN, False):
        print(f"\n{item.nodeid}: QEMU's emulator broke the guest; once more, in another one")
        item.session._setupstate.teardown_exact(None)  # the guest is a fixture of the module
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
