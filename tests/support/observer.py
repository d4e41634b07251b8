"""An observer that looks at something again and again, in a thread of its own, during a `with` block.

Owns the thread. What is looked at, and what is remembered of it, belongs to each observer.
"""

import threading
from types import TracebackType
from typing import Self

JOIN_TIMEOUT = 30.0  # seconds for the last look to end: a request to a hanging API server takes 5


class Observer:
    """Looks at ``what`` each ``interval`` seconds; a subclass says how, in ``_observe``."""

    def __init__(self, what: str, interval: float) -> None:
        self._what = what
        self._interval = interval
        self._ended = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=f"looks at {what}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(JOIN_TIMEOUT)

    def _observe(self) -> None:
        """Look once."""
        raise NotImplementedError

    def _check(self) -> None:
        """Raise what went wrong in the thread, to whoever asks for what was seen."""
        if self._failure is not None:
            raise RuntimeError(
                f"The looking at {self._what} has failed, so nothing is known of them"
            ) from self._failure

    def _run(self) -> None:
        try:
            while not self._ended.wait(self._interval):
                self._observe()
        except Exception as error:  # noqa: BLE001 - raised by `_check`, in the thread that asks
            self._failure = error
