"""What can be known about jobs without Slurm: what is sent, refused, counted and shown."""

import json
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from ssl_affect.cli import main
from ssl_affect.errors import ClusterError, ConfigError
from ssl_affect.slurm.doctor import seconds
from ssl_affect.slurm.job import _was_killed, free_port
from ssl_affect.slurm.queue import fields, this_job
from ssl_affect.slurm.record import MAX_WITHOUT_PROGRESS, Record
from ssl_affect.slurm.settings import Machines, check_allocation, machines, merged
from ssl_affect.slurm.submit import SCRIPTS
from ssl_affect.slurm.work import KINDS, Grid, Work, make_work, read_list

ROOT = Path(__file__).parents[2]
DDP = ROOT / "configs" / "cluster" / "ddp_8gpu.yaml"
BASE = ROOT / "configs" / "pretrain" / "mae_dfer_base.yaml"


@pytest.fixture
def no_slurm(monkeypatch, tmp_path_factory):
    """A path with bash and without Slurm, whatever this machine has."""
    folder = tmp_path_factory.mktemp("commands")
    for name in ("bash", "env"):
        (folder / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(folder))


@pytest.fixture
def shards(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "manifest.json").write_text("{}")
    return tmp_path / "shards"


def pretraining(tmp_path, shards, *more):
    files = ["--config", str(BASE), "--config", str(DDP)]
    return ["pretrain", *files, f"--data.shards={shards}", "--run", str(tmp_path / "run"), *more]


def test_merged_config_takes_files_and_options_in_their_order(tmp_path):
    for name, values in (("a", {"trainer": {"devices": 2, "strategy": "ddp"}}), ("b", {"trainer": {"devices": 4}})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    words = [
        "--config",
        str(tmp_path / "a.yaml"),
        f"--config={tmp_path / 'b.yaml'}",
        "--trainer.num_nodes",
        "3",
        "--x.y=[1, 2]",
    ]
    found = merged("pretrain", words)
    assert found["trainer"] == {
        "log_every_n_steps": 50,
        "precision": "32-true",
        "devices": 4,
        "strategy": "ddp",
        "num_nodes": 3,
    }
    assert found["x"] == {"y": [1, 2]}
    assert found["seed_everything"] == 0  # of configs/base.yaml
    assert merged("pretrain", [*words, "--trainer.devices=8"])["trainer"]["devices"] == 8


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"devices": 8, "accelerator": "gpu"}, Machines(nodes=1, tasks_per_node=8, gpus_per_node=8)),
        ({"devices": [0, 3], "num_nodes": 2}, Machines(nodes=2, tasks_per_node=2, gpus_per_node=2)),
        ({"devices": "4", "accelerator": "cpu"}, Machines(nodes=1, tasks_per_node=4, gpus_per_node=0)),
    ],
)
def test_machines_follow_from_the_recipe(trainer, expected):
    assert machines({"trainer": trainer}) == expected


@pytest.mark.parametrize("trainer", [{}, {"devices": "auto"}, {"devices": -1}, {"devices": 1, "num_nodes": "two"}])
def test_recipe_without_a_number_of_devices_is_refused(trainer):
    with pytest.raises(ConfigError, match=r"trainer\.devices=8"):
        machines({"trainer": trainer})


def test_dry_run_shows_script_options_and_command(tmp_path, shards, no_slurm, capsys):
    words = pretraining(tmp_path, shards, "--trainer.num_nodes=2", "--data.num_workers=5")
    assert main(["slurm", "submit", "--dry-run", "--partition=gpu", "--time=1:00:00", *words]) == 0
    said = capsys.readouterr().out
    for text in ("pretrain.sbatch", "#SBATCH --signal=USR1@120", "#SBATCH --time=24:00:00  (replaced below)",
                 "--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=6", "--partition=gpu",
                 f"--output={tmp_path}/run/slurm-%j.log", "ssl-affect"):  # fmt: skip
        assert text in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--nodes=4", "--ntasks=3", "--ntasks-per-node=2", "-N=1"])
def test_numbers_that_follow_from_the_recipe_cannot_be_given(tmp_path, shards, no_slurm, option, capsys):
    assert main(["slurm", "submit", "--dry-run", option, *pretraining(tmp_path, shards)]) == 2
    assert "follow from the recipe" in capsys.readouterr().err


def test_shards_that_are_not_there_are_refused(tmp_path, no_slurm, capsys):
    assert main(["slurm", "submit", "--dry-run", *pretraining(tmp_path, tmp_path / "nothing")]) == 2
    assert "no finished shard set" in capsys.readouterr().err
    assert main(["slurm", "submit", "--dry-run", *pretraining(tmp_path, "s3://bucket/vox2")]) == 0


def test_run_folder_below_a_file_is_refused(tmp_path, shards, no_slurm, capsys):
    (tmp_path / "run").write_text("")
    assert main(["slurm", "submit", "--dry-run", *pretraining(tmp_path, shards)]) == 2
    assert "no folder that you can write to" in capsys.readouterr().err


def test_arrays_and_what_waits_for_them(tmp_path, shards, no_slurm, capsys):
    recipe = ["finetune", "--config", str(ROOT / "configs/finetune/mae_dfer_crema_d.yaml"), f"--data.shards={shards}"]
    assert main(["slurm", "submit", "--dry-run", "--folds=1-5", "--seeds=0,1", *recipe, f"--run={tmp_path}/runs"]) == 0
    said = capsys.readouterr().out
    for text in ("--array=0-9", "--folds=1,2,3,4,5", "fold-1-seed-0", "evaluate.sbatch", "--dependency=afterok:JOB"):
        assert text in said
    assert main(["slurm", "submit", "--dry-run", "--parts=3", "shards", "videos", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for text in ("--array=1-3", "--part=1/3", "join.sbatch", "--dependency=afterok:JOB"):
        assert text in said


@pytest.mark.parametrize(
    "words",
    [
        ["--folds=1-5", "pretrain"],
        ["--parts=3", "finetune"],
        ["--parts=0", "shards", "v", "--out", "o"],
        ["nonsense"],
        [],
        ["--folds", "shards"],
        ["pretrain", "--config", "no.yaml"],
    ],
)
def test_impossible_submissions_are_refused(no_slurm, words, capsys):
    assert main(["slurm", "submit", "--dry-run", *words]) == 2
    assert capsys.readouterr().err.startswith("ssl-affect slurm: ")


def test_without_slurm_every_command_says_so(tmp_path, shards, no_slurm, capsys):
    assert main(["slurm", "submit", *pretraining(tmp_path, shards)]) == 2
    assert "there is no Slurm on this machine" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["slurm", "doctor"]) == 1
    assert "no Slurm on this machine" in capsys.readouterr().out
    assert main(["slurm", "job", *pretraining(tmp_path, shards)]) == 2
    assert "slurm submit" in capsys.readouterr().err


def test_status_of_runs_without_slurm(tmp_path, no_slurm, capsys):
    for name, facts in {
        "a": {"state": "finished", "step": 20, "steps": {"stop": 20}},
        "b/c": {"state": "failed", "step": 3, "steps": {"stop": 20}, "error": "RuntimeError: too\nhot"},
    }.items():
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text(json.dumps(facts))
    assert main(["slurm", "status", str(tmp_path)]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert [re.split(r"\s{2,}", row)[:4] for row in rows] == [
        ["run", "job", "state", "step"],
        ["a", "-", "finished", "20/20"],
        ["b/c", "-", "failed", "3/20"],
    ]
    assert "RuntimeError: too hot" in rows[2]
    Record(tmp_path / "a" / "slurm.json").write(job="7", state="running", message="")
    (tmp_path / "a" / "run.json").write_text('{"state": "running", "step": 5}')
    main(["slurm", "status", "--json", str(tmp_path / "a")])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["job"], row["state"], row["message"]) == ("7", "died", "its job is gone")


def test_grid_has_every_fold_and_seed_once(tmp_path):
    grid = Grid(("1", "2", "x"), ("0", "7"))
    assert [grid.cell(number) for number in range(len(grid))] == [(f, s) for f in ("1", "2", "x") for s in ("0", "7")]
    assert grid.arguments(tmp_path, 3) == [
        "--data.split.fold=2",
        "--seed_everything=7",
        f"--run={tmp_path}/fold-2-seed-7",
    ]
    assert Grid().folder(tmp_path, 0) == tmp_path
    with pytest.raises(ConfigError, match="array task 6"):
        grid.cell(6)


def test_lists():
    assert read_list("1-3,7,train") == ("1", "2", "3", "7", "train")
    assert read_list("a-b") == ("a-b",)
    for wrong in ("", "1,1", "1-2,2", "3-1", "1,,2"):
        with pytest.raises(ConfigError, match="different values"):
            read_list(wrong)


def test_job_of_an_array_task_knows_its_fold_and_folder(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"devices": 1, "accelerator": "cpu"}}))
    words = ["--config", str(config), f"--run={tmp_path}/runs"]
    work = make_work("finetune", words, {"folds": "1,2", "seeds": "0,1"}, {"SLURM_ARRAY_TASK_ID": "3"})
    assert work.folder == tmp_path / "runs" / "fold-2-seed-1"
    assert work.command[-3:] == ("--data.split.fold=2", "--seed_everything=1", f"--run={work.folder}")
    part = make_work("shards", ["videos", "--out", f"{tmp_path}/o"], {"parts": "4"}, {"SLURM_ARRAY_TASK_ID": "4"})
    assert part.command[-1] == "--part=4/4"
    assert part.folder == tmp_path / "o" / ".parts" / "0004-of-0004"


def test_run_that_gets_nowhere_is_given_up_and_one_that_does_is_not(tmp_path, no_slurm):
    record = Record(tmp_path / "slurm.json")
    start = {"nodes": "n1", "log": None}
    for restart in range(20):
        record.start("5", restarts=restart, progress=restart, **start)
    for restart in range(20, 20 + MAX_WITHOUT_PROGRESS - 1):
        record.start("5", restarts=restart, progress=19, **start)
    with pytest.raises(ClusterError, match="without getting past 19"):
        record.start("5", restarts=30, progress=19, **start)
    again = Record.read(record.path)
    assert (again.state, again.requeues) == ("failed", 30)
    again.start("6", restarts=0, progress=19, **start)  # submitted again: the count begins anew
    assert (again.state, again.without_progress, len(again.starts)) == ("running", 0, 1)


def test_damaged_record_is_refused(tmp_path):
    (tmp_path / "slurm.json").write_text('{"job": ')
    with pytest.raises(ClusterError, match="cannot be read"):
        Record.read(tmp_path / "slurm.json")


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"state": "stopped", "step": 5, "steps": {"stop": 9}}, True),
        ({"state": "stopped", "step": 9, "steps": {"stop": 9}}, False),  # a signal in the last step
        ({"state": "stopped", "step": 5}, True),
        ({"state": "finished", "step": 9, "steps": {"stop": 9}}, False),
        ({"state": "running", "step": 9}, False),
    ],
)
def test_only_runs_that_were_stopped_on_the_way_go_back(tmp_path, facts, expected):
    (tmp_path / "run.json").write_text(json.dumps(facts))
    work = Work(kind="pretrain", command=("ssl-affect",), folder=tmp_path, record=tmp_path / "slurm.json")
    assert work.was_stopped() is expected


@pytest.mark.parametrize(
    ("code", "how", "killed"),
    [
        (1, "Exited with exit code 1", False),
        (137, "Exited with exit code 1", False),  # the others were killed after it
        (1, "Killed", True),  # the others noticed that it was gone
        (137, None, True),
        (2, None, False),
        (143, "Terminated", True),
        (138, "Exited with exit code 138", True),  # a signal that came while it was loading
        (139, "Segmentation fault", True),
    ],
)
def test_what_an_end_means(code, how, killed):
    assert _was_killed(code, how) is killed


def test_job_that_does_not_fit_the_recipe_is_refused():
    wanted = Machines(nodes=2, tasks_per_node=4, gpus_per_node=4)
    check_allocation(wanted, {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "8"})
    for wrong in ({"SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "8"}, {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}):
        with pytest.raises(ClusterError, match="--nodes=2 --ntasks-per-node=4"):
            check_allocation(wanted, wrong)


def test_port_follows_from_the_job_and_passes_over_one_that_is_taken():
    port = free_port("4711.0", "127.0.0.1")
    assert free_port("4711.0", "127.0.0.1") == port
    assert len({free_port(f"{job}.{start}", "127.0.0.1") for job in range(4700, 4710) for start in range(3)}) > 27
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert free_port("4711.0", "127.0.0.1") != port


def test_words_of_slurm():
    line = "JobId=12 JobName=a b c JobState=RUNNING Reason=None Socks/Node=* Command=/x/y z StdOut=/runs/a.log Power= "
    found = fields(line)
    assert (found["JobName"], found["JobState"], found["StdOut"], found["Power"]) == (
        "a b c",
        "RUNNING",
        "/runs/a.log",
        "",
    )
    assert this_job({"SLURM_JOB_ID": "9"}) == "9"
    assert this_job({"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "8", "SLURM_ARRAY_TASK_ID": "1"}) == "8_1"
    assert this_job({}) is None
    assert [seconds(text) for text in ("5", "1:30", "2:00:00", "1-00:00:00", "2-12")] == [300, 90, 7200, 86400, 216000]
    assert seconds("UNLIMITED") == float("inf")


def test_evaluation_names_every_run_that_is_missing(tmp_path, no_slurm, capsys):
    (tmp_path / "fold-1" / "test").mkdir(parents=True)
    (tmp_path / "fold-1" / "test" / "test.json").write_text("{}")
    (tmp_path / "fold-3").mkdir()
    (tmp_path / "fold-3" / "run.json").write_text('{"state": "failed", "step": 7, "error": "ValueError: bad"}')
    assert main(["slurm", "evaluate", "--folds=1-3", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "2 of 3 runs have no test" in said
    assert "fold-3: failed at step 7, ValueError: bad" in said
    assert "fold-2" in said
    assert "fold-1:" not in said


@pytest.mark.parametrize("kind", KINDS)
def test_scripts_are_short_whole_and_without_numbers_of_a_recipe(kind):
    text = (SCRIPTS / f"{kind}.sbatch").read_text()
    assert "#SBATCH --requeue" in text
    assert "#SBATCH --open-mode=append" in text
    assert ("#SBATCH --signal=USR1@120" in text) == (kind in ("pretrain", "finetune", "shards"))
    assert not re.search(r"--(nodes|gpus|ntasks-per-node|trainer|data|model)", text.split("set -e")[1])
    assert text.rstrip().endswith(f'exec ssl-affect slurm job {kind} "$@"')
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(SCRIPTS / f"{kind}.sbatch")], check=True)
