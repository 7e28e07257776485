"""Data workers: the loader that starts them, and what happens when one dies: what it owed is read in this process."""

import atexit
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from multiprocessing.queues import Queue
from typing import Any

import torch
from torch.utils.data import DataLoader

from ssl_affect.data.batch import ClipBatch
from ssl_affect.data.clips import ClipDataset
from ssl_affect.data.plan import PositionSampler, SequentialBatches
from ssl_affect.data.slabs import Slabs
from ssl_affect.errors import SslAffectError

logger = logging.getLogger(__name__)

_DIED = "DataLoader worker"  # how PyTorch's message about a dead worker begins
_NO_MEMORY = ("can't allocate memory", "Cannot allocate memory", "Insufficient memory", "insufficient shared memory")
_CAUSES = {
    signal.SIGKILL: "most often the kernel's, for want of memory (`dmesg` says so, or the job's accounting)",
    signal.SIGBUS: "most often for want of shared memory (/dev/shm)",
    signal.SIGSEGV: "a fault in a decoder",
}


class DataWorkerError(SslAffectError):
    """A process that decodes clips has died or has run out of memory."""


def make_loader(
    dataset: ClipDataset,
    batches: PositionSampler | SequentialBatches,
    *,
    num_workers: int,
    prefetch_factor: int,
    pin_memory: bool,
    worker_init: Callable[[int], None] | None,
    slabs: bool = False,
) -> DataLoader:
    """A loader whose workers live as long as it does and draw no random numbers of this process.

    Args:
        dataset: What is read.
        batches: Which positions every batch has.
        num_workers: Processes that decode; 0 decodes in this one.
        prefetch_factor: Batches that every worker prepares ahead.
        pin_memory: Page-locked batches, for a CUDA device.
        worker_init: Called with its number in every worker process when it starts.
        slabs: Hand frames over in memory that is used again, ``dataset.slabs``, out of which every batch has to be taken.
    """
    if num_workers:
        end_workers_at_exit()
        dataset.slabs = Slabs(num_workers, prefetch_factor + 1) if slabs else None
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=dataset.collate,
        pin_memory=pin_memory,
        prefetch_factor=prefetch_factor if num_workers else None,
        persistent_workers=num_workers > 0,
        worker_init_fn=partial(start_worker, then=worker_init),
        # Its own generator: a DataLoader otherwise draws from the global one whenever it starts, so that a resumed run
        # would see other random numbers than an uninterrupted one.
        generator=torch.Generator(),
    )


def guarded_batches(
    loader: DataLoader, *, read: Callable[[], Iterator[ClipBatch]], died: Callable[[str], None]
) -> Iterator[ClipBatch]:
    """The batches of a loader; when one of its workers dies, the rest of them from ``read``.

    Args:
        loader: The loader.
        read: Makes the batches from the next one on in this process.
        died: Called once with what happened, before ``read``.
    """
    batches = _started(loader)
    while True:
        try:
            batch = next(batches, None)
        except (RuntimeError, MemoryError, EOFError, OSError) as error:
            what = _what_happened(batches, error)
            if what is None:
                raise
            died(what)
            break
        if batch is None:
            return
        yield batch
    del batches, loader  # ends the workers that are left
    yield from read()


def start_worker(worker_id: int, then: Callable[[int], None] | None = None) -> None:
    """What a worker does first: sees to it that it ends when it cannot send a batch.

    Python sends from a thread of its own, which drops what it cannot send, for want of memory as a rule, and says nothing
    to the process that waits for it: the run would stand still for ever.

    Args:
        worker_id: Number of the worker.
        then: What else it does.
    """
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    if then is not None:
        then(worker_id)


def _end_worker(error: BaseException, item: object) -> None:
    message = f"data worker {os.getpid()} cannot send a batch ({type(error).__name__}: {error}) and ends\n"
    os.write(2, message.encode(errors="replace"))
    os._exit(1)


@cache
def end_workers_at_exit() -> None:
    """Sees to it that this process can end while workers are alive, as after an error whose traceback still holds them.

    Python asks them to end by a SIGTERM and then waits; workers that are shielded from the first SIGTERM, which may be
    meant for the whole job, would let it wait for ever.
    """
    atexit.register(_kill_workers)


def _kill_workers() -> None:
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _started(loader: DataLoader) -> Iterator[ClipBatch]:
    """The loader's iterator, without the signal handler that comes with it.

    PyTorch raises the death of a worker from a handler, wherever the main thread is just then: in the middle of an
    optimizer step, after which nothing could be saved. Without it the death shows when the next batch is asked for.
    """
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)
    return batches


def _what_happened(batches: Any, error: Exception) -> str | None:
    """Which worker died and why, None for an error that is no death."""
    text = str(error)
    if text.startswith(_DIED) or isinstance(
        error, EOFError | OSError
    ):  # the latter: it died before it had sent all of it
        workers = list(enumerate(getattr(batches, "_workers", [])))
        for _, worker in workers:
            worker.join(timeout=0.1)
        dead = [
            _death(number, worker.pid, worker.exitcode) for number, worker in workers if worker.exitcode is not None
        ]
        return "; ".join(dead) or (text.splitlines()[0] if text.startswith(_DIED) else None)
    if isinstance(error, MemoryError) or any(phrase in text for phrase in _NO_MEMORY):
        return f"a data worker ran out of memory ({text.strip().splitlines()[-1] if text.strip() else 'MemoryError'})"
    return None


def _death(number: int, pid: int, exitcode: int) -> str:
    who = f"data worker {number} (process {pid})"
    if exitcode >= 0:
        return f"{who} ended with exit code {exitcode}"
    name, cause = signal.Signals(-exitcode).name, _CAUSES.get(signal.Signals(-exitcode))
    return f"{who} was killed by {name}" + (f", {cause}" if cause else "")
