"""A training turned inside out: instead of running to its end it does one step when it is asked to."""

import threading
from collections.abc import Callable
from queue import SimpleQueue

import torch

from copra_lab.adapters.adapter import Adapter
from copra_lab.training.fitting import Step

GONE = 30.0
"""Seconds without a question after which whoever asked counts as gone."""


class _Ended(Exception):
    """Raised through `fit`, to end it."""


class Stepwise:
    """Runs ``fit(on_step)`` in a thread of its own, which waits after every step."""

    def __init__(self, fit: Callable[[Callable[[Step], None]], Adapter], patience: float = GONE):
        self._fit, self._patience = fit, patience
        self._told: SimpleQueue[Step | None] = SimpleQueue()
        self._asked, self._ended = threading.Semaphore(0), False
        self._result: Adapter | None = None
        self._trouble: Exception | None = None
        self.last: Step | None = None
        self.done = False
        threading.Thread(target=self._work, name="copra-lab-training", daemon=True).start()

    def step(self) -> Step | None:
        """Do one more. None after the last one, when `fit` has come to its end. Raises what `fit` raises."""
        if self.done:
            return None
        self._asked.release()
        step = self._told.get()
        self.done = step is None
        self.last = step or self.last
        if self._trouble:
            raise self._trouble
        return step

    def learned(self) -> Adapter | None:
        """What `fit` gave, or what has been learned so far; None before the first step, and after trouble."""
        if self._result or self._trouble or not self.last or not self.last.learned:
            return self._result
        found = self.last.learned()
        assert isinstance(found, Adapter)
        return found

    def end(self) -> None:
        """Whatever `fit` still wanted to do."""
        self._ended = True
        self._asked.release()

    def _work(self) -> None:
        torch.set_num_threads(1)
        try:
            self._wait()
            self._result = self._fit(self._report)
        except _Ended:
            pass
        except Exception as e:
            self._trouble = e
        self._told.put(None)

    def _report(self, step: Step) -> None:
        self._told.put(step)
        self._wait()

    def _wait(self) -> None:
        if not self._asked.acquire(timeout=self._patience) or self._ended:
            raise _Ended
