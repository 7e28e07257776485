"""The demo: its plan, its journal, its verdict, interruption; and, marked slow, the road itself on a tiny scale."""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_affect.demo import JOURNAL, main, steps
from ssl_affect.demo.results import next_commands, read_losses, summary
from ssl_affect.demo.steps import LABELLED, METHODS, data_steps, training_steps, transfer_steps
from ssl_affect.errors import ConfigError, SslAffectError
from ssl_affect.journal import Step, run_step


def write_results(out: Path, losses: list[float], constant: float) -> None:
    (out / "shards").mkdir(parents=True)
    (out / "run").mkdir()
    manifest = {"num_sources": 5, "num_samples": 4, "num_quarantined": 2, "seconds": 12.25}
    (out / "shards" / "manifest.json").write_text(json.dumps(manifest))
    rows = [f"{10 * i},{loss},{constant if i % 5 == 0 else ''}" for i, loss in enumerate(losses)]
    (out / "run" / "metrics.csv").write_text("\n".join(["step,train/loss,train/constant", *rows]) + "\n")


def words(made: list[Step]) -> list[str]:
    return [step.command[1] if step.command[0] == "shards" else step.command[0] for step in made]


@pytest.mark.parametrize("name", METHODS)
def test_the_road_is_whole_and_in_order(tmp_path, name):
    write_results(tmp_path, [1.0], constant=1.0)
    method = METHODS[name]
    made = ["synth", "build"] * (2 if method.held_out else 1)
    assert words(data_steps(tmp_path, method, None, 2)) == [*made, "verify", "stats", "view"]
    assert words(training_steps(tmp_path, method)) == ["pretrain", "export"]
    assert words(transfer_steps(tmp_path, method, 2)) == ["synth", "build", *["finetune"] * 5]
    own = data_steps(tmp_path, method, Path("films"), 2)
    assert own[0].command[:3] == ("shards", "build", "films")
    for step in transfer_steps(tmp_path, method, 2):
        paths = [Path(after) for word, after in itertools.pairwise(step.command) if word == "--config"]
        assert all(path.is_file() for path in paths)


def test_it_ends_with_what_to_type_next(tmp_path):
    out = tmp_path / "a demo"
    assert [line.split()[1] for line in next_commands(out)] == ["extract"]
    released = out / "finetune_pretrained" / "weights"
    released.mkdir(parents=True)
    (released / "config.json").touch()
    assert shlex.split(next_commands(out)[1])[1:5] == ["report", "my_video.mp4", "--model", str(released)]


def test_labelled_people_are_drawn_by_another_seed():
    for method in METHODS.values():
        assert "--seed" not in method.synthetic
    assert LABELLED[LABELLED.index("--seed") + 1] != "0"


def test_held_out_clips_follow_the_training_clips_of_the_same_people():
    method = METHODS["hicmae"]
    train, held_out = (dict(zip(x[::2], x[1::2], strict=True)) for x in (method.synthetic, method.held_out))
    assert held_out["--first"] == train["--clips"]
    assert {**train, "--clips": ""} == {k: v for k, v in {**held_out, "--clips": ""}.items() if k != "--first"}


def test_few_clips_get_a_small_batch(tmp_path):
    write_results(tmp_path, [1.0], constant=1.0)  # 4 clips
    command = training_steps(tmp_path, METHODS["mae_dfer"])[0].command
    assert command[-2:] == ("--data.batch_size", "4")


def test_retrieval_is_shown_with_its_clips_and_chance(tmp_path):
    write_results(tmp_path, [1.0] * 5, constant=1.0)
    (tmp_path / "held_out_shards").mkdir()
    (tmp_path / "held_out_shards" / "manifest.json").write_text(json.dumps({"num_samples": 64}))
    columns = "step,train/loss,train/constant,val/metric_retrieval,val/metric_retrieval_chance"
    lines = [columns, "1,0.5,1.0,0.1,0.0625", "2,0.4,1.0,0.25,0.0625"]
    (tmp_path / "run" / "metrics.csv").write_text("\n".join(lines) + "\n")
    rows = dict(summary(tmp_path))
    assert rows["voice found among its batch"].startswith("25.0% of 64 held-out clips")
    assert "6.2%" in rows["voice found among its batch"]


@pytest.mark.parametrize(("last", "word"), [(0.3, "pass"), (0.95, "fail")])
def test_the_verdict_compares_with_the_constant_predictor(tmp_path, last, word):
    write_results(tmp_path, [1.2] * 18 + [last - 0.1, last + 0.1], constant=1.0)
    rows = dict(summary(tmp_path))
    assert rows["result"].startswith(word)
    assert rows["quarantined"] == "2"
    assert rows["last loss"] == f"{last:.4f}"


def test_losses_need_rows(tmp_path):
    write_results(tmp_path, [], constant=1.0)
    with pytest.raises(SslAffectError, match="no loss was logged"):
        read_losses(tmp_path / "run" / "metrics.csv")


def test_missing_configs_and_videos_are_explained(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="not a folder"):
        main(["--out", str(tmp_path), "--videos", str(tmp_path / "nowhere")])
    monkeypatch.setattr(steps, "CONFIGS", tmp_path)
    with pytest.raises(ConfigError, match="clone it"):
        main(["--out", str(tmp_path)])


def test_a_failing_command_stops_the_demo_with_its_name(tmp_path):
    step = Step("fails", ("shards", "stats", str(tmp_path / "nothing")), tmp_path / "x")
    with pytest.raises(SslAffectError, match="shards stats"):
        run_step(step)


def test_long_output_goes_to_a_file(tmp_path, capsys):
    step = Step("help", ("shards", "build", "--help"), tmp_path / "x", keep_output=tmp_path / "help.txt")
    assert run_step(step) > 0
    assert "more lines in" in capsys.readouterr().out
    assert len((tmp_path / "help.txt").read_text().splitlines()) > 20


def test_a_damaged_journal_is_refused_by_name(tmp_path):
    (tmp_path / JOURNAL).write_text("[1")
    with pytest.raises(ConfigError, match=JOURNAL):
        main(["--out", str(tmp_path)])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_its_command_and_goes_on_later(tmp_path, number):
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "ssl_affect.cli", "demo", "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((out / "synthetic").glob("*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on where it stopped" in errors
    whole = list((out / "synthetic").glob("*.mp4"))
    time.sleep(1)
    assert whole
    assert list((out / "synthetic").glob("*.mp4")) == whole  # nothing is still running
    assert not list(out.rglob("*.partial"))


@pytest.mark.slow
def test_the_whole_road_on_four_clips_and_again(tmp_path):
    """Synthetic clips, a recipe of a few steps; the second run finds everything done."""
    videos = tmp_path / "videos"
    cli = [sys.executable, "-m", "ssl_affect.cli"]
    made = ["shards", "synth", "--out", str(videos), "--clips", "4", "--identities", "2", "--seconds", "1.5"]
    subprocess.run([*cli, *made], check=True)
    configs = tmp_path / "configs"
    shutil.copytree(steps.CONFIGS, configs)
    recipe = configs / "demo" / "mae_dfer.yaml"
    short = re.sub(r"steps: \d+, warmup_steps: \d+", "steps: 20, warmup_steps: 2", recipe.read_text())
    recipe.write_text(re.sub("log_every_n_steps: [0-9]+", "log_every_n_steps: 5", short))
    assert "steps: 20" in recipe.read_text()
    code = "import sys, pathlib; from ssl_affect import cli; from ssl_affect.demo import steps;"
    code += " steps.CONFIGS = pathlib.Path(sys.argv[1]); sys.exit(cli.main(sys.argv[2:]))"
    out = tmp_path / "demo"
    command = [sys.executable, "-c", code, str(configs), "demo", "--out", str(out), "--videos", str(videos)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert re.search(r"clips found +4\n", first.stdout), first.stdout + first.stderr
    assert (out / "run" / "report.html").is_file()
    assert (out / "weights" / "config.json").is_file()
    second = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert second.stdout.count("done before") == 6
    assert second.returncode == first.returncode
