"""What SIGINT and SIGTERM do to a run."""

import os
import signal
import threading
from typing import Any

from jax.experimental import multihost_utils

from jaxrec.run.world import processes


class Stop:
    """Notes SIGINT and SIGTERM, so that a run can save its state before it ends; a second signal ends it at once.

    Of several processes one may get the signal: jax's preemption service then tells all of them at the same call of
    ``due``, and only SIGINT is handled here, by passing it on as SIGTERM, which that service waits for.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._calls, self._several = 0, processes.several()
        self._at_once = False
        handled = (signal.SIGINT,) if self._several else (signal.SIGINT, signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread():
            handled = ()  # Python lets the main thread alone handle signals; Ray trains in another.
        self._before = {each: signal.signal(each, self._note) for each in handled}

    def _note(self, number: int, _: Any) -> None:
        if self._at_once:
            raise KeyboardInterrupt(number)
        self._at_once = True
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.signal = signal.Signals(number)

    def due(self) -> bool:
        """Whether to stop now. Every process has to ask as often as the others."""
        if self._several and self.signal is None:
            self._calls += 1
            if multihost_utils.reached_preemption_sync_point(self._calls):
                self.signal = signal.SIGTERM
        return self.signal is not None

    def at_once(self) -> None:
        """From here on the first signal ends the process: everything is saved."""
        self._at_once = True
        if self._several:
            processes.end_on_sigterm()

    def restore(self) -> None:
        """Puts the former handlers back."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
