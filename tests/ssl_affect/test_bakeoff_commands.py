"""The commands of a study, and how long a budget lets a method run."""

import json
import random
from fractions import Fraction
from pathlib import Path

import pytest
from bakeoff_fixture import read, study

from ssl_affect.bakeoff.commands import cells, checkpoint, data_steps, drawn_step, length_of, probe_steps, trained_step
from ssl_affect.bakeoff.run import journal_of, length_of_cell, probes_of, run
from ssl_affect.errors import ConfigError
from ssl_affect.files import write_json
from ssl_affect.flops import model_cost

OUT = Path("out")


@pytest.fixture
def one(tmp_path):
    return read(tmp_path / "a.yaml", study()).studies["faces"]


def test_runs_use_the_budget_up_and_never_more(one):
    generator = random.Random(0)
    for _ in range(200):
        cost, batch = generator.randrange(1, 10**7), generator.randrange(1, 64)
        step = 6 * cost * batch
        if one.budget < one.unit * step:
            with pytest.raises(ConfigError, match="raise budget"):
                length_of(one, cost, batch, "ours")
            continue
        length = length_of(one, cost, batch, "ours")
        assert length.step_flops == step
        assert length.steps * step <= one.budget < (length.steps + one.unit) * step
        assert length.steps == length.every * one.unit
        assert 1 <= length.warmup < length.steps


def test_every_fraction_has_its_checkpoint(one):
    length = length_of(one, 10**6, 10, "ours")  # 100 steps
    cell = next(cells("faces", one, OUT))
    names = [checkpoint(cell, share, length).name for share in one.shares]
    assert names == ["step-00000001.ckpt", "step-00000025.ckpt", "step-00000050.ckpt", "step-00000100.ckpt"]
    assert checkpoint(cell, Fraction(0), length).parent.parent == cell.drawn


def test_hand_made_features_are_probed_once_and_methods_at_every_fraction(one):
    places = {(c.method.name, c.seed): [share for _, share in probes_of(c, one)] for c in cells("faces", one, OUT)}
    assert places == {("ours", 0): list(one.shares), ("ours", 1): list(one.shares), ("pixels", 0): [None]}


def test_commands_are_what_a_user_would_type(one):
    length = length_of(one, 10**6, 10, "ours")
    ours, pixels = list(cells("faces", one, OUT))[:2]
    assert data_steps("faces", one, OUT, 2)[0].command == ("shards", "synth", "--out", "out/faces/data/x")
    drawn, trained = drawn_step(ours, one, 2), trained_step(ours, one, length, 2)
    for step in (drawn, trained):
        assert step.command[:2] == ("pretrain", "fit")
        assert step.reads[0].name == "smoke.yaml"
        assert "out/faces/data/shards" in step.command
    assert "--trainer.max_steps=1" in drawn.command
    schedule = next(word for word in trained.command if word.startswith("--model.init_args.schedule="))
    assert json.loads(schedule.partition("=")[2])["steps"] == 100
    assert "--checkpoints.keep_every_n_steps=25" in trained.command
    (of_ours,) = probe_steps(ours, one, one.probes[0], Fraction(1, 4), length, "mae_dfer_tiny", 2)
    run_folder = "out/faces/ours/seed0/linear-1-4"
    assert of_ours.command == (
        "finetune", "fit", "--model.init_args.model", "mae_dfer_tiny", "--model.init_args.pretrained",
        "out/faces/ours/seed0/trained/checkpoints/step-00000025.ckpt", "--data.audio", "null", "--run", run_folder,
    )  # fmt: skip
    assert of_ours.product == Path(run_folder) / "test" / "test.json"
    (of_pixels,) = probe_steps(pixels, one, one.probes[0], None, None, "pixel_statistics", 2)
    assert "--model.init_args.pretrained" not in of_pixels.command


def test_folds_have_folders_of_their_own(tmp_path):
    folded = read(tmp_path / "a.yaml", {**study(), "folds": [1, 2]}).studies["faces"]
    folders = [cell.folder for cell in cells("faces", folded, OUT)]
    assert len(set(folders)) == len(folders) == 2 * 3
    assert OUT / "faces" / "ours" / "seed1-fold2" in folders


def test_features_without_a_checkpoint_are_told_so(tmp_path):
    values = study()
    values["probes"][0]["commands"] = [["extract", "{checkpoint}"]]
    one = read(tmp_path / "a.yaml", values).studies["faces"]
    pixels = list(cells("faces", one, OUT))[1]
    with pytest.raises(ConfigError, match="hand-made features do not have"):
        probe_steps(pixels, one, one.probes[0], None, None, "pixel_statistics", 2)


def test_the_length_follows_from_what_was_drawn(tmp_path, one):
    cell = next(cells("faces", one, tmp_path))
    with pytest.raises(ConfigError, match=r"no run\.json"):
        length_of_cell(cell, one)
    arch = {"img_size": 32, "num_frames": 4, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    about = {"model": "videomae_tiny", "arch": arch, "mask": {"kind": "tube", "ratio": 0.75}}
    cell.drawn.mkdir(parents=True)
    (cell.drawn / "run.json").write_text(json.dumps({"model": about, "global_batch": 4}))
    cost = model_cost("videomae_tiny", task="pretrain", mask_ratio=0.75, **arch)
    assert length_of_cell(cell, one) == length_of(one, cost.flops, 4, "ours")


def test_only_known_studies_are_run(tmp_path):
    with pytest.raises(ConfigError, match="no such study"):
        run(read(tmp_path / "a.yaml", study()), tmp_path, journal_of(Path("a.yaml"), tmp_path), 1, ("voices",))


def test_configs_that_share_a_folder_keep_their_own_journals(tmp_path):
    journal = journal_of(Path("configs/faces.yaml"), tmp_path)
    write_json(journal.path, {"ssl-affect doctor": 1.0})
    assert journal_of(Path("elsewhere/faces.yaml"), tmp_path).seconds == {"ssl-affect doctor": 1.0}
    assert journal_of(Path("configs/voices.yaml"), tmp_path).seconds == {}
