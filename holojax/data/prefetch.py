"""Reading ahead: an iterator that works in a thread while its consumer computes."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

_END = object()


class Prefetch(Iterator):
    """Run `source` in a background thread, at most `depth` items ahead.

    An error of the source is raised to the consumer, after the items before it. The thread stops when the
    source ends, at `close()`, when the iterator is dropped, and at the exit of the interpreter.
    """

    def __init__(self, source: Iterable[Any], depth: int = 1) -> None:
        self._queue: queue.Queue = queue.Queue(maxsize=max(depth, 1))
        self._stop = threading.Event()
        # The thread holds the queue and the event but not this object, so that dropping it ends the thread.
        self._thread = threading.Thread(
            target=_work, args=(source, self._queue, self._stop), name="holojax-prefetch", daemon=True
        )
        self.close = weakref.finalize(self, _halt, self._thread, self._queue, self._stop)
        self._thread.start()

    def __next__(self) -> Any:
        if self._stop.is_set():
            raise StopIteration
        item, error = self._queue.get()
        if item is not _END:
            return item
        self._stop.set()
        if error is not None:
            raise error
        raise StopIteration

    def __enter__(self) -> Prefetch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _work(source: Iterable[Any], ready: queue.Queue, stop: threading.Event) -> None:
    error = None
    try:
        for item in source:
            if not _put(ready, (item, None), stop):
                return
    except BaseException as caught:  # whatever it is, it belongs to the consumer
        error = caught
    _put(ready, (_END, error), stop)


def _put(ready: queue.Queue, item: Any, stop: threading.Event) -> bool:
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(item, timeout=0.05)
            return True
    return False


def _halt(thread: threading.Thread, ready: queue.Queue, stop: threading.Event) -> None:
    stop.set()
    with contextlib.suppress(queue.Empty):
        while True:
            ready.get_nowait()  # frees the batches that nobody will fetch
    if thread is not threading.current_thread():
        thread.join()
