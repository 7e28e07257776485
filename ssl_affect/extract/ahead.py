"""Windows made ready in other threads while the model computes, in the same order and with the same content.

Decoding and looking for faces happen in C libraries that let other threads run, so a model does not wait for pixels as
long as they come faster than it takes them. Nothing else changes: what is wrong with a window is raised where it is asked
for, and a window that nobody takes counts for nothing.
"""

import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from queue import Full, Queue
from typing import Any

import torch

from ssl_affect.extract.windows import Window

_PATIENCE_S = 0.1  # how often a thread with nothing to do looks whether it is still wanted
_LEAVING_S = (
    2.0  # how long the end waits for a thread that is in the middle of a frame or of a long stretch without faces
)
_MOST_THREADS = 8

_Prepare = Callable[[Callable[[], Any]], Callable[[], Any]]


def decoding_threads(device: torch.device, *, remote: bool) -> int:
    """Threads that decode windows of shards beside the one that finds them; 0: that one decodes too.

    On a CPU the cores are the model's, and shards on a server are read by one thread.
    """
    if device.type == "cpu" or remote:
        return 0
    return min(_MOST_THREADS, os.cpu_count() or 1)


@contextmanager
def read_ahead(windows: Generator[Window, None, None], *, depth: int, threads: int = 0) -> Iterator[Iterator[Window]]:
    """Windows whose pixels and sound are made ready before they are asked for.

    Args:
        windows: The windows; taken and closed by another thread.
        depth: Windows that wait at most; each holds its pixels.
        threads: Threads that decode, see :func:`decoding_threads`.

    Yields:
        The same windows. What went wrong in finding the next one is raised in its place.
    """
    ready: Queue[Window | BaseException | None] = Queue(maxsize=max(1, depth))
    left = threading.Event()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode") if threads else None
    prepare: _Prepare = _at_once if pool is None else lambda make: pool.submit(make).result
    producer = threading.Thread(target=_produce, args=(windows, prepare, ready, left), name="windows", daemon=True)
    producer.start()
    try:
        yield _taken(ready)
    finally:
        left.set()
        producer.join(timeout=_LEAVING_S)
        if pool is not None:
            pool.shutdown(wait=False, cancel_futures=True)


def _taken(ready: "Queue[Window | BaseException | None]") -> Iterator[Window]:
    while (item := ready.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        yield item


def _produce(
    windows: Generator[Window, None, None],
    prepare: _Prepare,
    ready: "Queue[Window | BaseException | None]",
    left: threading.Event,
) -> None:
    last: BaseException | None = None
    try:
        for window in windows:
            sound = None if window.sound is None else prepare(window.sound)
            if not _put(ready, replace(window, frames=prepare(window.frames), sound=sound), left):
                break
    except BaseException as error:  # raised again where the next window is asked for
        last = error
    finally:
        windows.close()
        _put(ready, last, left)


def _put(
    ready: "Queue[Window | BaseException | None]", item: Window | BaseException | None, left: threading.Event
) -> bool:
    while not left.is_set():
        try:
            ready.put(item, timeout=_PATIENCE_S)
        except Full:
            continue
        return True
    return False


def _at_once(make: Callable[[], Any]) -> Callable[[], Any]:
    """Runs ``make`` now; the result gives its value, or raises what it raised."""
    done: Future[Any] = Future()
    try:
        done.set_result(make())
    except BaseException as error:  # raised again where the value is asked for
        done.set_exception(error)
    return done.result
