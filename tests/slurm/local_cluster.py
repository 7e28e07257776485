"""A real Slurm on this machine: munged, slurmctld and one slurmd per virtual node, in a folder and on ports of their own.

Everything is stopped when the ``with`` block is left, however it is left; also what jobs have left behind. Should the
process of the tests itself be killed, a watchman that waits for its end does the same.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

DAEMONS = ("munged", "slurmctld", "slurmd")
_SBIN = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/sbin"

# cred_expire=5: a job that was put back starts after 8 seconds and not after two minutes.
# urgent preempts debug: the job gets SIGTERM and, after the grace, is put back by Slurm itself.
CONFIG = """\
ClusterName=local
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire=5
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SwitchType=switch/none
SlurmctldPort={port}
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
KillWait=5
SlurmdTimeout=20
MinJobAge=600
JobRequeue=1
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,requeue_delay=1
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
"""


def missing() -> list[str]:
    """The daemons that are not installed."""
    return [name for name in DAEMONS if shutil.which(name, path=_SBIN) is None]


class LocalCluster:
    """Starts and stops the daemons.

    Args:
        folder: Where everything is kept; its path must be short enough for a socket (about 100 characters).
        num_nodes: Virtual nodes ``n1``, ``n2`` ...
        cpus: CPUs that each of them claims to have.
    """

    def __init__(self, folder: Path, *, num_nodes: int = 2, cpus: int = 4) -> None:
        self.folder = folder
        self.names = [f"n{number}" for number in range(1, num_nodes + 1)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        ports = _free_ports(num_nodes + 1)
        nodes = "\n".join(
            f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000"
            " State=UNKNOWN"
            for name, port in zip(self.names, ports[1:], strict=True)
        )
        self.config = folder / "slurm.conf"
        self._text = CONFIG.format(folder=folder, user=getpass.getuser(), port=ports[0], nodes=nodes)

    def __enter__(self) -> Self:
        for name in ("run", "state", "log", *(f"spool/{node}" for node in self.names)):
            (self.folder / name).mkdir(parents=True)
        os.chmod(self.folder / "run", 0o755)
        key = self.folder / "run" / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        self.config.write_text(self._text)
        self._before = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
        os.environ.update(SLURM_CONF=str(self.config), PATH=_SBIN)
        command = [sys.executable, str(Path(__file__)), str(self.config)]
        self._watchman = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        try:
            self._start_munge(key)
            self._start("slurmctld", "-D", "-c", "-f", str(self.config))
            for name in self.names:
                self.start_node(name)
            self._wait_until_idle()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start_node(self, name: str) -> None:
        """Starts the daemon of a node."""
        self._start("slurmd", "-D", "-N", name, "-f", str(self.config))
        self._nodes[name] = self._processes[-1]

    def crash_node(self, name: str) -> int:
        """Ends a node as a power cut does: its daemon and all that jobs run on it, with no signal that can be caught.

        Returns:
            Number of processes that were killed.
        """
        daemon = self._nodes.pop(name)
        tasks = of_this_cluster(self.config, f"SLURMD_NODENAME={name}")
        # Those that watch over the tasks go first: on a machine without power nobody is left to tell of an end.
        watchers = {parent for pid in tasks if (parent := _parent(pid)) and "slurmstepd" in _command(parent)}
        family = dict.fromkeys([daemon.pid, *watchers, *tasks])
        for pid in family:
            _kill(pid)
        daemon.wait()
        self._processes.remove(daemon)
        return len(family)

    def stop(self) -> None:
        """Ends all jobs and daemons, and what is left of jobs."""
        if self._processes:
            subprocess.run(["scancel", "--quiet", "--state=PENDING"], check=False, capture_output=True, timeout=30)
            subprocess.run(["scancel", "--quiet", "--signal=KILL", "--full", "--user", getpass.getuser()], check=False,
                           capture_output=True, timeout=30)  # fmt: skip
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self._processes):
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._watchman.stdin is not None:
            self._watchman.stdin.close()
        self._watchman.wait()
        for pid in of_this_cluster(self.config):
            _kill(pid)
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def _start_munge(self, key: Path) -> None:
        run = self.folder / "run"
        self._start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={run}/munge.socket",
            f"--pid-file={run}/munged.pid", f"--log-file={self.folder}/log/munged.log", f"--seed-file={run}/munged.seed",
        )  # fmt: skip
        wait_for(lambda: (run / "munge.socket").exists(), 20, "munged")

    def _start(self, *command: str) -> None:
        log = open(self.folder / "log" / f"{command[0]}-{len(self._processes)}.out", "wb")
        with log:
            self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))

    def _wait_until_idle(self) -> None:
        def idle() -> bool:
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"{process.args[0]} ended:\n{self.logs()}")  # type: ignore[index]
            done = subprocess.run(["sinfo", "-h", "-N", "-p", "debug", "-o", "%N %T"], capture_output=True, text=True)
            return done.returncode == 0 and done.stdout.count(" idle\n") == len(self.names)

        wait_for(idle, 60, "the nodes", say=self.logs)

    def logs(self) -> str:
        """The ends of all logs, for messages."""
        files = sorted((self.folder / "log").iterdir())
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in files)


def of_this_cluster(config: Path, *also: str) -> list[int]:
    """Processes that were started under this cluster, found by their environment."""
    marks, found = {f"SLURM_CONF={config}".encode(), *(mark.encode() for mark in also)}, []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marks <= set(path.read_bytes().split(b"\0")) and int(path.parent.name) not in (
                os.getpid(),
                os.getppid(),
            ):
                found.append(int(path.parent.name))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def wait_for(condition, seconds, what, say=lambda: ""):
    """Waits until a condition holds.

    Raises:
        TimeoutError: it does not in time.
    """
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}; {say()}")
        time.sleep(0.2)


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


if __name__ == "__main__":  # the watchman: its input ends with the process of the tests, however that ends
    sys.stdin.read()
    for left_over in of_this_cluster(Path(sys.argv[1])):
        _kill(left_over)
