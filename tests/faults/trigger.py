"""Faults that come from outside, at a random moment of a call."""

import os
import signal
import sys
import threading
import time

from notes import read_notes

from cypar.backends.pool.supervisor import pool

POLL_S = 0.0005


class Trigger:
    """Waits until enough tasks of a call have started, then does something once.

    Parameters
    ----------
    program : Program
    folder : str
        Where the notes are.
    call : int
    """

    def __init__(self, program, folder, call):
        self.program = program
        self.folder = folder
        self.call = call
        self.fired_at = None
        self.killed = []  # process ids
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trigger", daemon=True)
        self._act = {
            "killer": self._kill_worker,
            "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT),
            "end": self._end,
        }[program.fault]

    def start(self):
        self._thread.start()

    def stop(self):
        """End; afterwards nothing happens any more."""
        self._stopped.set()
        self._thread.join()

    def _run(self):
        while not self._stopped.is_set() and self._n_started() < self.program.after:
            self._stopped.wait(POLL_S)
        self._stopped.wait(self.program.delay_s)
        if self._stopped.is_set() and self.program.fault != "end":
            return
        self.fired_at = time.monotonic()
        self._act()

    def _n_started(self):
        return len(self._started())

    def _started(self):
        notes = read_notes(self.folder)
        return [n for n in notes if n.call == self.call and n.what == "started"]

    def _kill_worker(self):
        """Kill one worker, or one after the other, whatever they are doing."""
        for turn in range(len(self.program.faulty)):
            if turn and self._stopped.wait(0.002 * turn):
                return
            if self.program.variant == "any worker":
                idle, leased = pool.pids()
                pids = sorted(leased + idle)
            else:
                pids = sorted({note.pid for note in self._started()})
            pids = [pid for pid in pids if is_running(pid) and pid != os.getpid()]
            if pids:
                pid = pids[self.program.faulty[turn] % len(pids)]
                self.killed.append(pid)
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:  # its pool has ended it just now
                    self.killed.remove(pid)

    def _end(self):
        """End this process, as far as that is another thread's affair."""
        if self.program.variant == "os._exit":
            os._exit(3)
        number = getattr(signal, self.program.variant, None)
        if number is not None:
            os.kill(os.getpid(), number)
            time.sleep(10)
            sys.exit("still here")


def is_running(pid):
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
