"""Worker processes that may die.

``concurrent.futures`` gives a whole pool up when one process dies, and does not say over which job. A corpus of a
million files from the web has files that crash a decoder or eat all memory, so here every worker has its own pipe: a
dead one is known together with the job it held, the job is tried once more with all other workers at rest (memory may
have run out), and then given up while the others go on.
"""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

from ssl_affect.errors import SslAffectError

START_LIMIT_S = 300.0
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Work = Callable[[Any], Any]


class WorkerStartError(SslAffectError):
    """Worker processes do not come up, so no job can be blamed."""


class AbortError(SslAffectError):
    """Raised by the work when going on makes no sense, whatever the job: it ends the whole run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one job ended: ``value`` of the work, or ``problem`` when its worker died or took too long."""

    job: Any
    value: Any = None
    problem: str | None = None


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    job: Any = None
    busy: bool = False
    deadline: float = field(default_factory=lambda: time.monotonic() + START_LIMIT_S)


class WorkerPool:
    """Runs jobs in ``count`` processes and gives the outcomes in the order of the jobs.

    Args:
        count: Number of processes.
        setup: Picklable function that runs once in every process and returns the work: a function of one job.
        arguments: Arguments of ``setup``.
        time_limit_s: A job that takes longer is given up, and its process killed.
        on_outcome: Called with every outcome as soon as it is known, in any order.
    """

    def __init__(
        self,
        count: int,
        setup: Callable[..., Work],
        arguments: tuple[Any, ...],
        *,
        time_limit_s: float,
        on_outcome: Callable[[Outcome], None] = lambda outcome: None,
    ) -> None:
        self._count, self._setup, self._arguments = count, setup, arguments
        self._time_limit_s, self._on_outcome = time_limit_s, on_outcome
        self._workers: list[_Worker] = []
        self._retries: deque[tuple[int, Any]] = deque()
        self._tried: set[int] = set()
        self._outcomes: dict[int, Outcome] = {}

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def run(self, jobs: Iterable[Any], *, window: int) -> Iterator[Outcome]:
        """Yields the outcome of every job, in order.

        Args:
            jobs: Picklable jobs.
            window: Jobs that may be finished or under way beyond the one that is yielded next.

        Raises:
            WorkerStartError: a process died before it took a job.
            AbortError: the work raised it.
        """
        waiting = deque(enumerate(jobs))
        total = len(waiting)
        for number in range(total):
            while number not in self._outcomes:
                self._hand_out(waiting, limit=number + window)
                self._collect()
            yield self._outcomes.pop(number)

    def close(self) -> None:
        """Kills all processes. What they were writing stays under temporary names."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _hand_out(self, waiting: deque[tuple[int, Any]], limit: int) -> None:
        busy = [worker for worker in self._workers if worker.busy]
        if self._retries:  # alone: nothing else is handed out before the others are done and until it is
            queue = self._retries if not busy else deque()
            room = 1
        elif any(worker.job[0] in self._tried for worker in busy):
            return
        else:
            queue, room = waiting, self._count
        while queue and queue[0][0] < limit and len([w for w in self._workers if w.busy]) < room:
            idle = next((w for w in self._workers if w.ready and not w.busy), None)
            if idle is None:
                if len(self._workers) < self._count:
                    self._start()
                if len(self._workers) < min(self._count, room, len(queue)):
                    continue
                return
            job = queue.popleft()
            idle.job, idle.busy, idle.deadline = job, True, time.monotonic() + self._time_limit_s
            try:
                idle.pipe.send(job[1])
            except OSError:  # it died while idle; its sentinel tells the rest
                return

    def _start(self) -> None:
        context = get_context("spawn")  # fork would copy the threads' locks of torch and OpenCV
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._setup, self._arguments), daemon=True)
        before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
        try:
            process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()
        self._workers.append(_Worker(process, ours))

    def _collect(self) -> None:
        """Waits for a message, a death or a deadline, at most a second."""
        active = [worker for worker in self._workers if worker.busy or not worker.ready]
        pipes = {worker.pipe: worker for worker in active}
        now = time.monotonic()
        patience = min([1.0, *(max(0.0, worker.deadline - now) for worker in active)])
        for pipe in connection.wait(list(pipes), timeout=patience):
            self._receive(pipes[pipe])  # type: ignore[index]
        for worker in active:
            if worker in self._workers and (worker.busy or not worker.ready) and time.monotonic() > worker.deadline:
                self._expire(worker)

    def _receive(self, worker: _Worker) -> None:
        try:
            kind, value = worker.pipe.recv()
        except (EOFError, OSError):
            self._remove(worker)
            code = worker.process.exitcode
            self._lost(worker, f"the worker process died ({_describe(code)})")
            return
        if kind == "ready":
            worker.ready = True
        elif kind == "done":
            worker.busy = False
            self._settle(worker.job, value=value)
        elif kind == "abort":
            raise AbortError(value)
        else:  # "failed": an error nobody expected; the process ends itself
            self._remove(worker)
            self._lost(worker, value)

    def _expire(self, worker: _Worker) -> None:
        self._remove(worker)
        if not worker.ready:
            raise WorkerStartError(
                f"a worker process was not ready after {START_LIMIT_S:.0f} s; is the machine overloaded?"
            )
        self._settle(worker.job, problem=f"no result after {self._time_limit_s:g} s; the worker process was stopped")

    def _lost(self, worker: _Worker, reason: str) -> None:
        if not worker.ready:
            raise WorkerStartError(f"a worker process could not start: {reason}")
        number, _ = worker.job
        if number in self._tried:
            self._settle(worker.job, problem=f"{reason}, and again when tried alone")
        else:
            self._tried.add(number)
            self._retries.append(worker.job)

    def _remove(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()

    def _settle(self, job: tuple[int, Any], *, value: Any = None, problem: str | None = None) -> None:
        number, content = job
        self._tried.discard(number)
        self._outcomes[number] = Outcome(content, value, problem)
        self._on_outcome(self._outcomes[number])


def _serve(pipe: Connection, setup: Callable[..., Work], arguments: tuple[Any, ...]) -> None:
    """Body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        work = setup(*arguments)
        pipe.send(("ready", None))
        while True:
            pipe.send(("done", work(pipe.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except AbortError as error:
        pipe.send(("abort", str(error)))
    except BaseException as error:
        # Not swallowed: the parent records it and the process ends, whatever state the decoder is in.
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        raise SystemExit(1) from error


def _die_with_parent() -> None:
    """A parent that was killed must not leave workers behind that write into the folder of the next run."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
    os._exit(1)


def _describe(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        try:
            return signal.Signals(-exitcode).name
        except ValueError:
            return f"signal {-exitcode}"
    return f"exit code {exitcode}"
