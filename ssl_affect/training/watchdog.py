"""Notices that a process of a run is dead or stands still, names it, and ends the others instead of letting them wait.

Every process has a thread that writes a sign of life to ``RUN/ranks/rank-00000.json``: where its main thread stands and
for how long. Every thread reads the files of all others. Files need no server, which would be one more process to lose,
work on several machines wherever the run folder does, and are there to be read afterwards.
"""

import faulthandler
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from ssl_affect.errors import SslAffectError

FOLDER = "ranks"
Doing = Literal["reading", "training", "other"]
SILENCE_S = 60.0  # a process on another machine that has given no sign for so long is taken for dead
_RECORD = 4096  # bytes of a file, written in place: a full disk must not look like a dead process
_WAITING = ("torch/distributed/", "torch/autograd/graph.py")  # where a process waits that others keep waiting


class RankLostError(SslAffectError):
    """A process of a run is dead or stands still, so that the others cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One sign of life.

    Args:
        start: Name of this start of the job.
        rank: The process, with the next two.
        host: Its machine.
        pid: Its number there.
        count: Signs so far.
        step: Optimizer steps that are done.
        batches: Batches that were begun.
        reading: Whether it waits for its next batch.
        still_s: Seconds without any progress.
        where: Where the main thread stands, innermost first.
        done: The process has ended its training.
        verdict: Why it ends, once it knows.
    """

    start: str
    rank: int
    host: str
    pid: int
    count: int = 0
    step: int = 0
    batches: int = 0
    reading: bool = False
    still_s: float = 0.0
    where: tuple[str, ...] = ()
    done: bool = False
    verdict: str = ""

    @property
    def progress(self) -> tuple[int, bool]:
        """Grows with the work that was done; the process that is furthest behind keeps the others waiting."""
        return self.batches, self.reading

    @property
    def name(self) -> str:
        """The process in words."""
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        doing = "waiting for its next batch" if self.reading else "at work" if self.batches else "starting"
        return f"{doing} after step {self.step}" + (f", at {' < '.join(self.where)}" if self.where else "")

    @property
    def waits_for_others(self) -> bool:
        """Whether it stands in an operation that all processes take part in."""
        return _waits(self.where)


def path_of(folder: Path, rank: int) -> Path:
    """The file of a process in ``RUN/ranks``."""
    return folder / f"rank-{rank:05d}.json"


def write_beat(folder: Path, beat: Beat) -> None:
    """Overwrites the file of a process in place; a full or unreachable disk is passed over, the next one may do."""
    text = json.dumps(asdict(beat))
    if len(text) > _RECORD:
        text = json.dumps(asdict(beat) | {"where": [], "verdict": beat.verdict[:1000]})
    try:
        file = os.open(path_of(folder, beat.rank), os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(file, text.encode("ascii").ljust(_RECORD), 0)
        finally:
            os.close(file)
    except OSError:
        return


def read_beat(folder: Path, rank: int, start: str) -> Beat | None:
    """The last sign of life; None if there is none of this start, or it is being written."""
    try:
        values = json.loads(path_of(folder, rank).read_text(encoding="ascii"))
        beat = Beat(**{**values, "where": tuple(values["where"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return beat if beat.start == start else None


class Watchdog(threading.Thread):
    """The thread of one process.

    Args:
        folder: ``RUN/ranks``, seen by all processes.
        start: Name of this start of the job, equal on all ranks.
        rank: This process.
        world_size: Processes.
        hang_timeout_s: How long a process may stand still.
        look: What the main thread does: (steps done, batches begun, and whether it waits for its next batch, trains on one,
            or does something else, such as validating or saving).
        end: Called once with the verdict, before this process is ended.
        exit_cause: How a process that was started by this one ended, by its pid; "" if that is not known.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: str,
        rank: int,
        world_size: int,
        hang_timeout_s: float,
        look: Callable[[], tuple[int, int, Doing]],
        end: Callable[[str, bool], None],
        exit_cause: Callable[[int], str] = lambda pid: "",
    ) -> None:
        super().__init__(daemon=True, name="watchdog")
        self.folder = folder
        self.world_size = world_size
        self.hang_timeout_s = hang_timeout_s
        self.interval_s = min(2.0, hang_timeout_s / 10)
        self.beat = Beat(start=start, rank=rank, host=socket.gethostname(), pid=os.getpid())
        self.verdict = ""
        self._look, self._end, self._exit_cause = look, end, exit_cause
        self._main = threading.main_thread().ident
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        now = time.monotonic()
        self._moved, self._worked_s = now, 0.0
        self._position: tuple[object, ...] = ()
        self._seen: dict[int, tuple[Beat | None, float]] = {r: (None, now) for r in range(world_size) if r != rank}
        write_beat(folder, self.beat)

    def run(self) -> None:
        """Writes and reads signs of life until :meth:`stop`, or ends the process."""
        before = time.monotonic()
        while not self._stopped.wait(self.interval_s):
            now = time.monotonic()
            if now - before > 5 * self.interval_s:  # this process itself was suspended, perhaps with all others
                self._moved = now
                self._seen = {rank: (beat, now) for rank, (beat, _) in self._seen.items()}
            before = now
            self._write(now)
            self._read(now)
            if verdict := self.judge():
                self._finish(verdict)
                return

    def stop(self, verdict: str = "") -> None:
        """Ends the thread, because the training has ended, or because of ``verdict``."""
        self._stopped.set()
        with self._lock:
            self.beat = _changed(self.beat, done=not verdict, verdict=verdict)
            write_beat(self.folder, self.beat)

    def judge(self) -> str:
        """What is wrong with the run, or ""; from the signs of life that were read last."""
        beats = {rank: beat for rank, (beat, _) in self._seen.items() if beat is not None}
        for beat in beats.values():
            if beat.verdict:
                return beat.verdict
        dead = [message for rank in self._seen if (message := self._death(rank))]
        if dead:
            return "; ".join(dead) + self._going_on()
        beats[self.beat.rank] = self.beat
        running = [beat for beat in beats.values() if not beat.done]
        if len(beats) < self.world_size or not running:
            return ""
        last = min(beat.progress for beat in running)
        behind = [beat for beat in running if beat.progress == last]
        behind = [beat for beat in behind if not beat.waits_for_others] or behind
        hung = [beat for beat in behind if beat.still_s > self.hang_timeout_s]
        if len(hung) < len(behind):  # one of those that the others wait for is at work
            return ""
        return (
            "; ".join(f"{beat.name} has stood still for {beat.still_s:.0f} s, {beat.place}" for beat in hung)
            + f" (trainer.hang_timeout_s={self.hang_timeout_s:g}; see {self.folder}/*.traceback.txt)"
            + self._going_on()
        )

    def wait_for_verdict(self, seconds: float) -> str:
        """What was wrong with another process when this one failed in talking to it; waits a little to find out."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._read(time.monotonic())
            if verdict := self.verdict or self.judge():
                return verdict
            time.sleep(0.2)
        return ""

    def _going_on(self) -> str:
        return ". All processes end; the same command goes on from the last checkpoint"

    def _death(self, rank: int) -> str:
        beat, since = self._seen[rank]
        silent = time.monotonic() - since
        limit = min(SILENCE_S, self.hang_timeout_s)
        if beat is None:
            late = silent > max(SILENCE_S, self.hang_timeout_s)
            return f"rank {rank} has never given a sign of life in {silent:.0f} s" if late else ""
        if beat.done:
            return ""
        state = process_state(beat.pid) if beat.host == self.beat.host else ""
        if state == "gone":
            cause = (
                self._exit_cause(beat.pid)
                or "killed from outside, for want of memory, or crashed: see the system's log"
            )
            return f"{beat.name} is dead ({cause}); it was {beat.place}"
        if silent > limit:
            what = "it is stopped by a signal" if state == "stopped" else "it or its machine is dead or unreachable"
            return f"{beat.name} has given no sign of life for {silent:.0f} s: {what}; it was {beat.place}"
        return ""

    def _write(self, now: float) -> None:
        step, batches, doing = self._look()
        stack = _stack(sys._current_frames().get(self._main or 0))
        where = _where(stack)
        # A loop that polls for data changes its line too, so waiting for data is no progress wherever it stands. Long
        # work of one line, such as solving, uses the processor; but so does waiting for a GPU in a training step.
        position = (batches, doing, *(() if doing == "reading" else ((id(f.f_code), f.f_lasti) for f in stack)))
        worked_s = _seconds_worked(self._main)
        works = doing == "other" and worked_s - self._worked_s > 0.01 * self.interval_s and not _waits(where)
        if position != self._position or works:
            self._position, self._moved = position, now
        self._worked_s = worked_s
        with self._lock:
            if self._stopped.is_set():
                return
            self.beat = _changed(
                self.beat,
                count=self.beat.count + 1,
                step=step,
                batches=batches,
                reading=doing == "reading",
                still_s=round(now - self._moved, 1),
                where=where,
            )
            write_beat(self.folder, self.beat)

    def _read(self, now: float) -> None:
        for rank, (before, _) in list(self._seen.items()):
            beat = read_beat(self.folder, rank, self.beat.start)
            if beat is not None and beat != before:
                self._seen[rank] = (beat, now)

    def _finish(self, verdict: str) -> None:
        """Leaves a traceback and the verdict for the others, and lets the owner end the process."""
        self.verdict = verdict
        try:
            with open(path_of(self.folder, self.beat.rank).with_suffix(".traceback.txt"), "w") as stream:
                faulthandler.dump_traceback(stream)
        except OSError:
            pass  # the verdict matters more than the traceback
        with self._lock:
            self.beat = _changed(self.beat, verdict=verdict)
            write_beat(self.folder, self.beat)
        for beat, _ in self._seen.values():
            stopped = beat is not None and beat.host == self.beat.host and process_state(beat.pid) == "stopped"
            if beat is not None and stopped:
                os.kill(beat.pid, signal.SIGKILL)  # it cannot end by itself
        healthy = [rank for rank, (beat, _) in self._seen.items() if beat is not None and not self._death(rank)]
        self._end(verdict, self.beat.rank < min(healthy, default=self.world_size))


def end_process(code: int = 1) -> None:
    """Ends this process and its data workers at once, whatever the main thread is stuck in."""
    for worker in multiprocessing.active_children():
        worker.kill()
    sys.stderr.flush()
    os._exit(code)


def process_state(pid: int) -> str:
    """``gone``, ``stopped``, or ``running`` (which is also said where it cannot be told), of a process of this machine."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        if sys.platform == "linux":
            return "gone"
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return "gone"
        except PermissionError:
            pass
        return "running"
    return {"Z": "gone", "X": "gone", "T": "stopped", "t": "stopped"}.get(state, "running")


def _changed(beat: Beat, **values: object) -> Beat:
    return Beat(**{**asdict(beat), **values})  # type: ignore[arg-type]


def _stack(frame: FrameType | None) -> list[FrameType]:
    """Frames from the innermost on."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def _where(stack: Sequence[FrameType]) -> tuple[str, ...]:
    """The innermost line, the innermost one of an operation of all processes, and the innermost lines of the suite."""
    lines = [f"{_short(f.f_code.co_filename)}:{f.f_lineno} {f.f_code.co_name}" for f in stack]
    shared = [line for line in lines if any(part in line for part in _WAITING)][:1]
    ours = [line for line in lines if line.startswith(("ssl_affect/", "pretrain/", "finetune/"))][:3]
    return tuple(dict.fromkeys([*lines[:1], *shared, *ours]))


def _waits(where: Sequence[str]) -> bool:
    return any(part in line for line in where for part in _WAITING)


def _seconds_worked(thread: int | None) -> float:
    """Processor time of a thread of this process; 0 where it cannot be told."""
    if thread is None or not hasattr(time, "pthread_getcpuclockid"):
        return 0.0
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


def _short(path: str) -> str:
    parts = Path(path).parts
    start = next((i + 1 for i, part in enumerate(parts) if part == "site-packages"), max(0, len(parts) - 3))
    for number, part in enumerate(parts):
        if part in ("ssl_affect", "pretrain", "finetune"):
            start = number
    return "/".join(parts[start:])
