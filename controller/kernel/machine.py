# SPDX-License-Identifier: Apache-2.0
"""The QEMU process of a micro-VM, and the three socket pairs that connect it.

It dies with this process, however this one dies: the kernel kills it when the thread that started it is gone, and that
thread lives exactly as long as QEMU does.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import threading
from concurrent.futures import Future

from controller.errors import ToolMissing
from controller.kernel import initramfs, leftovers
from controller.kernel.console import Console
from controller.kernel.punctual import CHECK_S, Punctual
from controller.kernel.snapshot import Monitor


class Machine:
    """One QEMU process with its socket pairs."""

    CHANNELS = (
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny",
        "-serial", "chardev:console", "-mon", "chardev=monitor,mode=control",
        "-device", "virtio-serial-pci,max_ports=2",
        "-device", f"virtserialport,chardev=port,name={initramfs.PORT_NAME}",
    )  # fmt: skip

    def __init__(self, command: list[str]) -> None:
        self.port, port_end = socket.socketpair()
        console, console_end = socket.socketpair()
        monitor, monitor_end = socket.socketpair()
        self.console = Console(console)
        self.monitor = Monitor(monitor)
        self.punctual: Punctual | None = None
        self._started: Future[subprocess.Popen[bytes]] = Future()
        ends = {"port": port_end, "console": console_end, "monitor": monitor_end}
        self._thread = threading.Thread(target=self._live, args=(command, ends), name="qemu", daemon=True)
        leftovers.note(self, self.kill)
        try:
            self._thread.start()
            self.pid = self._started.result().pid
        except OSError as error:
            self.kill()
            raise ToolMissing(f"cannot start {command[0]}: {error}", remedy="make setup") from error
        except BaseException:
            self.kill()
            raise

    def keep_time(self) -> None:
        """Have a guest of the emulator, which has come up, get its timer interrupts on time (see punctual.py)."""
        self.punctual = Punctual(self.pid)

    def kill(self) -> None:
        """End QEMU and everything that belongs to it; may be called again."""
        if self._thread.ident is not None:
            if self._started.exception() is None:
                self._started.result().kill()
            self._thread.join()
        self.port.close()
        self.monitor.close()
        self.console.close()
        leftovers.forget(self)

    def _live(self, command: list[str], ends: dict[str, socket.socket]) -> None:
        for name, end in ends.items():
            command = [*command, "-chardev", f"socket,id={name},fd={end.fileno()}"]
        try:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=ends["console"].fileno(),
                stderr=ends["console"].fileno(),
                pass_fds=[end.fileno() for end in ends.values()],
                start_new_session=True,  # the terminal's Ctrl-C is for us: we end QEMU ourselves
            )
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for it
            self._started.set_exception(error)
            return
        finally:
            for end in ends.values():
                end.close()
        self._started.set_result(process)
        ended = select.poll()
        descriptor = os.pidfd_open(process.pid)
        ended.register(descriptor, select.POLLIN)
        while not ended.poll(CHECK_S * 1000):
            if self.punctual is not None:
                self.punctual.check()
        os.close(descriptor)
        process.wait()
