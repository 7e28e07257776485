import json

import pytest
import yaml
from pretrain_runs import checkpoint, column, same, steps, train

from ssl_affect.errors import ConfigError
from ssl_affect.training.callbacks.nonfinite import NonFiniteError, NonFiniteGuard

# a constant learning rate of 1e-3 per step would hide nothing: a step that is not skipped moves every weight
MOVING = ["--model.optim.base_lr=0.3", "--model.schedule.warmup_steps=0"]


def broken(tmp_path, steps_to_break: list[int]) -> list[str]:
    values = {"model": {"class_path": "pretrain_runs.BrokenLoss", "init_args": {"broken_steps": steps_to_break}}}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump(values))
    return ["--config", str(tmp_path / "broken.yaml"), *MOVING]


def test_step_with_nan_loss_changes_nothing_but_the_clock(tmp_path, shards):
    run = tmp_path / "run"
    train(run, shards, *steps(4, every=1), *broken(tmp_path, [2, 4]))
    saved = {step: checkpoint(run, step) for step in (1, 2, 3, 4)}
    for before, after in ((1, 2), (3, 4)):
        assert same(saved[before]["state_dict"], saved[after]["state_dict"])
        assert same(saved[before]["optimizer_states"][0]["state"], saved[after]["optimizer_states"][0]["state"])
    assert not same(saved[2]["state_dict"], saved[3]["state_dict"])
    assert [saved[step]["ClipDataModule"]["position"] for step in (1, 2, 3, 4)] == [4, 8, 12, 16]
    assert column(run, "skipped_steps") == {1: 0, 2: 1, 3: 1, 4: 2}

    straight = tmp_path / "straight"
    train(straight, shards, *steps(4), *MOVING)
    assert column(run, "lr") == column(straight, "lr")

    entries = [json.loads(line) for line in (run / "skipped_steps.jsonl").read_text().splitlines()]
    assert [(entry["step"], entry["not_finite"], len(entry["keys"])) for entry in entries] == [
        (2, "loss", 4),
        (4, "loss", 4),
    ]
    assert entries[0]["keys"] != entries[1]["keys"]
    assert "Skipped steps" in (run / "report.html").read_text()


def test_infinite_gradient_with_finite_loss_is_skipped_too(tmp_path, shards):
    callback = {"class_path": "pretrain_runs.BrokenGradient", "init_args": {"step": 2}}
    (tmp_path / "broken.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    run = tmp_path / "run"
    clip = ["--trainer.gradient_clip_val=1.0"]
    train(run, shards, "--config", str(tmp_path / "broken.yaml"), *steps(3, every=1), *MOVING, *clip)
    assert same(checkpoint(run, 1)["state_dict"], checkpoint(run, 2)["state_dict"])
    assert not same(checkpoint(run, 2)["state_dict"], checkpoint(run, 3)["state_dict"])
    assert json.loads((run / "skipped_steps.jsonl").read_text())["not_finite"] == "gradient"


def test_accumulated_step_is_skipped_as_a_whole(tmp_path, shards):
    run = tmp_path / "run"
    split = ["--data.batch_size=2", "--trainer.accumulate_grad_batches=2"]
    train(run, shards, *steps(3, every=1), *broken(tmp_path, [2]), *split)
    assert same(checkpoint(run, 1)["state_dict"], checkpoint(run, 2)["state_dict"])
    assert len(json.loads((run / "skipped_steps.jsonl").read_text())["keys"]) == 4


def test_too_many_in_a_row_end_the_run_and_leave_a_report(tmp_path, shards):
    run = tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"3 times in a row .*Weights are still those of step 2"):
        train(run, shards, *steps(9), *broken(tmp_path, [3, 4, 5]), "--nonfinite.max_in_a_row=3")
    facts = json.loads((run / "run.json").read_text())
    assert facts["state"] == "failed"
    assert "NonFiniteError" in facts["error"]
    assert "The run failed" in (run / "report.html").read_text()
    assert same(checkpoint(run, 4)["state_dict"], checkpoint(run, 2)["state_dict"])


def test_at_least_one_must_be_tolerated():
    with pytest.raises(ConfigError, match="max_in_a_row"):
        NonFiniteGuard(max_in_a_row=0)
