"""The report of a run that still trains."""

import math
import time

from jaxrec.run.observers import Moment
from jaxrec.run.session import Session
from jaxrec.run.show.log import Log
from jaxrec.run.show.report import write_report
from jaxrec.run.world import processes

REPORT_SECONDS = 30
"""The report of a run that trains is written at most this often."""


class LiveReport:
    """Writes the report at evaluations, so that it is there while the run trains and after it was killed."""

    def __init__(self, session: Session, log: Log) -> None:
        self.session, self.log = session, log
        self.written = -math.inf

    def __call__(self, moment: Moment) -> None:
        """Writes it if an evaluation was due and it was not written just now, or if a signal ends the run."""
        stopped = self.session.stop.signal is not None
        due = moment.evaluates and not moment.last and time.monotonic() - self.written >= REPORT_SECONDS
        if not processes.first() or not (due or stopped):
            return
        with self.log.pause():
            write_report(self.session.folder)
        self.written = time.monotonic()
