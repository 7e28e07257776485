"""``slurm.json``: which job a run folder belongs to, how often it was put back, and whether it gets anywhere.

One run is one folder, whatever the number of jobs and requeues it takes. The record is what keeps a second job out of the
folder, and what ends a run that is put back again and again without a step of progress.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from ssl_affect.errors import ClusterError
from ssl_affect.files import write_json
from ssl_affect.slurm.queue import job_facts

RECORD_NAME = "slurm.json"
MAX_WITHOUT_PROGRESS = 3


@dataclass(slots=True)
class Record:
    """The record of one run folder.

    Args:
        path: Where it is kept.
        job: The job that owns the folder, ``123`` or ``123_4``.
        state: ``submitted``, ``running``, ``requeued``, ``finished``, ``failed`` or ``ended`` (by Slurm).
        message: What happened last, for a person.
        requeues: How often the job was started again, by itself or by Slurm.
        without_progress: Starts in a row that found the run where the start before had found it.
        progress: How far the run was at the last start; any JSON value that changes when it gets on.
        log: File with the output of the job.
        starts: Time, node list, restart count and progress of every start of this job.
    """

    path: Path
    job: str | None = None
    state: str = ""
    message: str = ""
    requeues: int = 0
    without_progress: int = 0
    progress: Any = None
    log: str | None = None
    starts: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record at ``path``; an empty one where there is none.

        Raises:
            ClusterError: the file is damaged.
        """
        if not path.is_file():
            return cls(path)
        try:
            values = json.loads(path.read_bytes())
            return cls(path, **values)
        except (ValueError, TypeError) as error:
            raise ClusterError(f"{path}: cannot be read ({error}); delete it if no job uses this folder") from error

    def write(self, **changes: Any) -> None:
        """Sets fields and writes the record atomically."""
        for name, value in changes.items():
            setattr(self, name, value)
        values = asdict(self)
        del values["path"]
        write_json(self.path, values)

    def refuse_other(self, job: str | None) -> None:
        """Refuses a folder that another live job owns.

        Args:
            job: The job that wants it; None for one that is about to be submitted.

        Raises:
            ClusterError: another job that runs or waits owns it.
        """
        if self.job is None or self.job == job:
            return
        facts = job_facts(self.job)
        if facts is not None and facts.alive:
            raise ClusterError(
                f"{self.path.parent}: job {self.job} ({facts.state.lower()}) owns this run folder; wait for it, end it"
                f" (`scancel {self.job}`), or give another folder"
            )

    def start(self, job: str, *, nodes: str, restarts: int, progress: Any, log: str | None) -> None:
        """Notes a start of ``job``, to be called after :meth:`refuse_other`.

        Raises:
            ClusterError: the job was started several times in a row without getting anywhere.
        """
        if self.job != job or not self.starts:
            self.starts, self.without_progress = [], 0
        elif progress == self.progress:
            self.without_progress += 1
        else:
            self.without_progress = 0
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self.starts.append({"time": now, "nodes": nodes, "restart": restarts, "progress": progress})
        self.write(job=job, state="running", message="", requeues=restarts, progress=progress, log=log)
        if self.without_progress >= MAX_WITHOUT_PROGRESS:
            self.write(
                state="failed",
                message=f"given up: put back {self.without_progress} times in a row without getting past {progress}",
            )
            raise ClusterError(
                f"{self.path.parent}: started {self.without_progress + 1} times without getting past {progress}; see"
                f" {log or 'the log'} for what ends it (too little time, memory or grace?), mend it, and submit again"
            )
