"""What a page finds behind an address: a hub of weights, a web server, an S3 server, a cluster.

All of them are on this machine and end with the page. The address of the page is exchanged for the one here.
"""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from doc_workspace import Workspace
from file_server import FileServer
from hub_server import Hub

# The words of Slurm that are read, for a cluster that does what it is asked and runs nothing. That jobs run is shown by
# tests/slurm under a real one (`make test-slurm`).
_SLURM = r"""#!/bin/bash
case "$(basename "$0") $*" in
  "sbatch --version"*) echo "slurm 22.05.8" ;;
  "sbatch --test-only"*) echo "sbatch: Job 7 to start at 2026-01-01T00:00:00 using 8 processors on nodes n1" >&2 ;;
  sbatch*) echo 7 ;;
  "scontrol ping"*) echo "Slurmctld(primary) at n0 is UP" ;;
  "scontrol show config"*) printf '%s\n' "JobRequeue = 1" "KillWait = 30 sec" "PreemptType = preempt/none" ;;
  *"show partition"*) echo "PartitionName=gpu TotalNodes=2 MaxTime=UNLIMITED GraceTime=120 Default=YES State=UP" ;;
  *"show job"*) echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1 ;;
  srun*) while [[ "$1" == --* ]]; do shift; done; exec "$@" ;;
esac
"""


def hub(work: Workspace, repository: str, **source: str) -> None:
    """A hub of weights, with a repository that holds the folder ``from``; without it, with none."""
    from huggingface_hub import constants

    served = Hub()
    if source:
        folder = work.folder / source["from"]
        served.commit(repository, {path.name: path.read_bytes() for path in folder.iterdir()})
    work.stack.enter_context(served.serve())
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, served.url)
    settings = {"HF_HUB_CACHE": str(work.folder / "hub"), "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False}
    for name, value in (settings | {"HUGGINGFACE_CO_URL_TEMPLATE": template, "ENDPOINT": served.url}).items():
        work.stack.enter_context(patch.object(constants, name, value))
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ["HF_TOKEN"] = "hf_test"


def web(work: Workspace, address: str, **source: str) -> None:
    """A web server with the files of the folder ``from``."""
    server = work.stack.enter_context(FileServer(work.folder / source["from"]))
    work.addresses[address] = server.url
    os.environ["SSL_AFFECT_SHARD_CACHE"] = str(work.folder / "cache")


def s3(work: Workspace, address: str, **source: str) -> None:
    """A bucket with the files of the folder ``from``, or an empty one.

    On a real S3 server where there is one (`make test-remote`), elsewhere on the web server.
    """
    files = work.folder / "buckets" / address.removeprefix("s3://")
    files.mkdir(parents=True)
    for path in sorted((work.folder / source["from"]).iterdir()) if source else ():
        shutil.copy(path, files)
    if find_spec("moto") is None or find_spec("boto3") is None:
        web(work, address, **{"from": str(files)})
        work.buckets[work.addresses[address]] = SimpleNamespace(folder=files, put=lambda path: None)
        return
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    work.stack.callback(server.stop)
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ENDPOINT_URL_S3": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SSL_AFFECT_SHARD_CACHE": str(work.folder / "cache"),
    }
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    client.create_bucket(Bucket=bucket)

    def put(path: Path) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{path.name}", Body=path.read_bytes())

    for path in sorted(files.iterdir()):
        put(path)
    work.buckets[address] = SimpleNamespace(folder=files, put=put)


def slurm(work: Workspace, folder: str) -> None:
    """The commands of Slurm, in a folder that is searched first."""
    path = work.folder / folder
    path.mkdir()
    for name in ("sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo", "sacct"):
        (path / name).write_text(_SLURM)
        (path / name).chmod(0o755)
    os.environ["PATH"] = f"{path}:{os.environ['PATH']}"


SERVERS = {served.__name__: served for served in (hub, web, s3, slurm)}
