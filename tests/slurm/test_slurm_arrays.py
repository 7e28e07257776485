"""Under a real Slurm, quickly: what the doctor says, and an array that builds a shard set, of which one task is killed."""

import os
import re

import pytest
from cluster_runs import SMOKE, processes, put_on_path, status, submit, wait_for_end
from local_cluster import wait_for
from media import numbered, write_video

from shards.verify import verify
from ssl_affect.cli import main
from ssl_affect.data.schema import Manifest
from ssl_affect.slurm.queue import job_facts

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def commands(tmp_path_factory, cluster):
    put_on_path(tmp_path_factory.mktemp("commands"))


def test_doctor_of_a_real_cluster(tmp_path, commands, capsys):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "manifest.json").write_text("{}")
    words = ["pretrain", "--config", str(SMOKE), f"--data.shards={tmp_path}/shards", f"--run={tmp_path}/run"]
    assert main(["slurm", "doctor", "--shared", str(tmp_path), "--srun", "--", *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for text in ("slurm-wlm", "runs get SIGTERM", "2 nodes, limit UNLIMITED, grace 60 s, the default", "reads and writes",
                 "1 tasks, one per device: --nodes=1 --ntasks-per-node=1", "to start at"):  # fmt: skip
        assert text in said
    assert "FAIL" not in said
    assert main(["slurm", "doctor", "--shared", str(tmp_path), "--", *words, "--trainer.num_nodes=3"]) == 1
    assert re.search(r"\[FAIL\] test .*-> see sinfo", capsys.readouterr().out, flags=re.DOTALL)


def test_parts_are_built_and_joined(tmp_path, commands, capsys):
    """The quick test of the default suite: a real Slurm, an array, a requeue without a signal, a dependent job."""
    (tmp_path / "videos").mkdir()
    for number in range(4):
        write_video(tmp_path / f"videos/v{number}.mp4", numbered(30 + number))
    out = tmp_path / "out"
    words = ["shards", str(tmp_path / "videos"), "--out", str(out), "--workers", "1", "--faces", "none", "--size", "32"]
    array, join = submit(capsys, "--parts=2", *words)
    wait_for(lambda: processes(out, "--part=2/2", "ssl_affect.cli shards build"), 60, "part 2")
    for pid in processes(out, "--part=2/2", "ssl_affect.cli shards build"):
        os.kill(pid, 9)
    assert wait_for_end(join, out, 240) == "COMPLETED"
    assert job_facts(f"{array}_2").values["Restarts"] == "1"
    manifest = Manifest.read(out)
    assert (manifest.num_samples, manifest.num_sources) == (4, 4)
    assert not verify(out, workers=1).problems
    rows = {row["run"]: row["state"] for row in status(tmp_path, capsys)}
    assert set(rows.values()) == {"finished"}
    assert len(rows) == 3
