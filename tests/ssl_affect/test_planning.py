"""The planner: counts are exact, measurements are used as they are, and whatever nobody measured is named."""

import json
import math
from dataclasses import replace

import pytest
from shard_fixture import make_shards

from ssl_affect.cli import main
from ssl_affect.errors import ConfigError
from ssl_affect.planning.corpus import Corpus, describe_corpus, read_corpus
from ssl_affect.planning.job import read_job
from ssl_affect.planning.machine import CHIPS, Machine, MeasuredReading, MeasuredStep, assumed_machine
from ssl_affect.planning.predict import checkpoint_bytes, make_plan
from ssl_affect.planning.rates import along, reading_rate, step_seconds
from ssl_affect.planning.work import work_of
from ssl_affect.training.config import CONFIGS

TINY = CONFIGS / "pretrain" / "mae_dfer_tiny.yaml"
SMOKE = CONFIGS / "smoke.yaml"
RECIPES = [*sorted((CONFIGS / "pretrain").glob("*.yaml")), *sorted((CONFIGS / "finetune").glob("*_*.yaml"))]


@pytest.fixture(scope="module")
def smoke():
    job = read_job([SMOKE])
    return job, work_of(job)


def corpus(clips=1000, side=32, codec="jpeg"):
    return Corpus(name="clips", clips=clips, seconds=5.0 * clips, num_bytes=1000 * clips, codec=codec, side=side)


def profile(job, work, *, batches=(2, 8), seconds=(0.4, 1.0), peaks=(3e9, 6e9), reading=100.0, **other):
    step = MeasuredStep(
        identity=job.identity(),
        threads=1,
        batches=list(batches),
        seconds=list(seconds),
        peak_bytes=list(peaks),
        flops=work.flops,
        parameters=work.parameters,
    )
    rate = MeasuredReading(codec="jpeg", side=32, num_frames=4, stride=2, sound=False, clips_per_s=reading)
    values = {
        "name": "here",
        "device": "cpu",
        "cores": 2,
        "memory": 8e9,
        "ceilings": {"32-true": 5e10},
        "shares": {"32-true": 0.5},
        "steps": [step],
        "reading": [rate],
        "base_bytes": 1e9,
        "write_bytes_per_s": 1e8,
        "start_s": 10.0,
    }
    return Machine(**{**values, **other})


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_read(path):
    job = read_job([path])
    assert job.program == path.parent.name
    assert job.arch["img_size"] == job.clip.size
    assert (job.program == "pretrain") == any(job.masks)


def test_overlays_and_keys_win_in_their_order():
    job = read_job([TINY, CONFIGS / "cluster" / "one_gpu.yaml"], None, ["data.batch_size=12", "model.mask.ratio=0.8"])
    assert (job.precision, job.accumulate, job.batch_size, job.masks[0].ratio) == ("bf16-mixed", 4, 12, 0.8)
    assert read_job([], "mae_dfer_tiny").identity() == read_job([TINY]).identity()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (([], None, []), "no recipe"),
        (([], "mae_dfer_huge", []), "mae_dfer_base"),
        (([TINY], None, ["batch 4"]), "data.batch_size=64"),
        (([CONFIGS / "base.yaml"], None, []), "no whole recipe"),
        (([CONFIGS / "absent.yaml"], None, []), "cannot be read"),
    ],
)
def test_what_is_no_recipe_is_said(arguments, word):
    with pytest.raises(ConfigError, match=word):
        read_job(*arguments)


def test_a_corpus_is_read_or_described(tmp_path):
    folder = make_shards(tmp_path / "shards", shard_sizes=(3, 2), num_frames=25)
    found = read_corpus(folder)
    assert (found.clips, found.seconds, found.codec, found.side, found.assumed) == (5, 5.0, "jpeg", 32, ())
    assert found.num_bytes == sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".tar", ".idx"))
    described = describe_corpus("1.1M", seconds=8, sound=True)
    assert (described.clips, described.seconds) == (1_100_000, 8_800_000)
    assert described.num_bytes == 8_800_000 * 55_000
    assert len(described.assumed) == 1
    with pytest.raises(ConfigError, match="neither a folder"):
        describe_corpus("many", seconds=5)


def test_the_work_is_counted(smoke):
    _, work = smoke
    longer = work_of(read_job([SMOKE], None, ["data.clip.num_frames=8"]))
    assert work.flops == 6 * work.multiply_adds
    assert 1.9 < longer.multiply_adds / work.multiply_adds < 3
    assert 1.9 < longer.kept_bytes / work.kept_bytes < 2.6
    assert checkpoint_bytes(work) >= 12 * work.parameters


def test_a_measured_step_is_used_between_and_beyond_its_batches(smoke):
    job, work = smoke
    machine = profile(job, work)
    for batch, seconds in ((2, 0.4), (5, 0.7), (8, 1.0), (20, 2.2), (1, 0.3)):
        own = replace(job, batch_size=batch)
        found, _, certain = step_seconds(own, machine, work)
        assert certain
        assert math.isclose(found, seconds)
    assert along(4, [2], [1.0]) == 2.0
    assert along(10, [2, 8], [1.0, 0.9]) == 1.0  # noise does not make larger batches free


def test_another_network_takes_the_rate_of_a_measured_one(smoke):
    job, work = smoke
    machine = profile(job, work)  # 0.2 s and 0.1 s a clip
    double = replace(work, multiply_adds=2 * work.multiply_adds)
    other = replace(job, model="svfap_tiny", batch_size=8)
    seconds, how, certain = step_seconds(other, machine, double)
    assert not certain
    assert "mae_dfer_tiny" in how
    assert math.isclose(seconds, 0.2 + 8 * 0.2)
    heavy = replace(double, parameters=3 * work.parameters)  # AdamW takes its time too
    assert seconds < step_seconds(other, machine, heavy)[0] < 2.5


def test_reading_scales_with_the_pixels_that_are_decoded(smoke):
    job, work = smoke
    machine = profile(job, work)
    assert reading_rate(job, corpus(), machine)[::2] == (100.0, True)
    rate, _, certain = reading_rate(job, corpus(side=64), machine)
    assert (rate, certain) == (25.0, False)
    assert not reading_rate(job, corpus(codec="h264"), machine)[2]


def test_a_plan_adds_up(smoke):
    job, work = smoke
    job = replace(job, batch_size=8, num_workers=0, schedule=read_job([TINY]).schedule, checkpoint_every=1000)
    plan = make_plan(job, corpus(), profile(job, work), work)
    steps = 200 * 1000 // 8
    assert (plan.global_batch, plan.steps) == (8, steps)
    assert math.isclose(plan.step_s, 1.0 + 8 / 100)  # nobody reads ahead
    written = steps // 1000 * checkpoint_bytes(work) / 1e8
    pictures = 0.5 * math.ceil(steps / job.pictures_every)
    assert math.isclose(plan.hours * 3600, 10 + steps * 1.08 + written + pictures)
    assert plan.disk["checkpoints"] == job.keep * checkpoint_bytes(work)
    assert plan.disk["total"] == sum(value for name, value in plan.disk.items() if name != "total")
    assert plan.memory["total"] == 6e9
    assert plan.memory["kept for backward"] == 6e9 - 1e9 - 16 * work.parameters
    assert [text for text in plan.assumed if "step" in text or "memory:" in text] == []


def test_workers_share_the_cores_of_a_cpu_and_are_not_free(smoke):
    job, work = smoke
    job = replace(job, batch_size=8, num_workers=1, cpu_threads=1)
    slow = make_plan(job, corpus(), profile(job, work, reading=4.0), work)
    assert math.isclose(slow.step_s, 2.0)  # 8 clips at 4 per second
    quick = make_plan(job, corpus(), profile(job, work), work)
    assert math.isclose(quick.step_s, 1.0)
    both = make_plan(replace(job, cpu_threads=2), corpus(), profile(job, work, reading=8.0, steps=[]), work)
    assert both.step_s > both.step_parts["compute"]


def test_more_devices_take_less_time_and_not_more_memory_than_sharding_says(smoke):
    job, work = smoke
    job = replace(job, precision="bf16-mixed", schedule=read_job([TINY]).schedule)
    machine = assumed_machine("a100", cores=256)
    one, eight = (make_plan(job, corpus(100_000), machine, work, devices=n) for n in (1, 8))
    assert eight.steps == one.steps // 8
    assert one.hours / 8 < eight.hours < one.hours
    assert any("several devices" in text for text in eight.assumed)
    sharded = make_plan(replace(job, strategy="fsdp2"), corpus(100_000), machine, work, devices=8)
    assert sharded.memory["state"] < eight.memory["state"] / 3


def test_what_does_not_fit_is_a_warning(smoke):
    job, work = smoke
    huge = make_plan(replace(job, batch_size=8), corpus(), profile(job, work, memory=1e9), work)
    assert any("data.batch_size" in text for text in huge.warnings)
    starved = make_plan(replace(job, num_workers=1), corpus(side=512), assumed_machine("h100", cores=2), work)
    assert any("reading is the limit" in text for text in starved.warnings)
    epochs = replace(job, schedule=read_job([TINY]).schedule)
    with pytest.raises(ConfigError, match="larger than the data set"):
        make_plan(epochs, corpus(clips=2), profile(job, work), work)


def test_a_profile_survives_its_file(tmp_path, smoke):
    machine = profile(*smoke)
    machine.write(tmp_path / "machine.json")
    assert Machine.read(tmp_path / "machine.json") == machine
    (tmp_path / "other.json").write_text(json.dumps({"schema": 1}))
    for name in ("other.json", "absent.json"):
        with pytest.raises(ConfigError, match="plan measure"):
            Machine.read(tmp_path / name)
    with pytest.raises(ConfigError, match="h100"):
        assumed_machine("abacus", cores=2)
    assert all(chip.low > 0 for chip in CHIPS.values())


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    arguments = ["plan", "--config", str(SMOKE), "--data", "20k", "--gpus", "2", "--chip", "l4"]
    assert main([*arguments, "data.batch_size=16"]) == 0
    text = capsys.readouterr().out
    assert "global batch 32" in text
    assert "assumed" in text
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ([], "no data"),
        (["--data", "20k"], "which GPUs"),
        (["--data", "20k", "--chip", "cpu"], "is a CPU"),
        (["--data", "20k", "--chip", "l4", "--machine", "x.json"], "give one of them"),
        (["measure"], "nowhere to write"),
    ],
)
def test_commands_that_say_too_little(more, word, capsys):
    assert main(["plan", "--config", str(SMOKE), *more]) == 2
    assert word in capsys.readouterr().err
