"""Weights and clips that were cropped in different ways do not meet without a word."""

import logging
from dataclasses import replace

import pytest
import yaml
from shard_fixture import make_shards

import ssl_affect
from finetune.cli import main
from finetune.crops import check_crops
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.errors import RecipeMismatchError
from ssl_affect.recipe import Recipe

FOUND = Recipe(faces="detect", detector="mtcnn", detector_sha256="ab")
VOXCELEB2 = Recipe(faces="fixed", fixed_crop=(0, 32, 160, 160))
OWNERS = Recipe(faces="none", fps=None, min_seconds=0.01, max_seconds=3600.0)


def test_equal_crops_say_nothing():
    assert check_crops(FOUND, FOUND.to_dict()) == []
    quiet = replace(FOUND, video_codec="jpeg", video_quality=90, detect_every=1, min_score=0.5)
    assert check_crops(quiet, FOUND.to_dict()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("detector", "yunet"), ("detector_sha256", "cd"), ("align", "similarity"), ("margin", 0.5), ("size", 224)],
)
def test_faces_that_look_different_stop_a_run_until_it_is_meant(name, value, caplog):
    clips = replace(FOUND, **{name: value})
    with pytest.raises(RecipeMismatchError, match=rf"{name} +clips {value} +weights .*(\n.*)*--allow-recipe-mismatch"):
        check_crops(clips, FOUND.to_dict())
    with caplog.at_level(logging.WARNING):
        notes = check_crops(clips, FOUND.to_dict(), allow_mismatch=True)
    assert len(notes) == 1
    assert f"{name} {value} instead of" in notes[0]
    assert notes[0] in caplog.text


def test_what_a_data_set_brings_along_is_said_and_goes_on():
    crop, frames = check_crops(OWNERS, VOXCELEB2.to_dict())
    assert "cropped as faces=fixed (0, 32, 160, 160), these as faces=none" in crop
    assert "fps None instead of 25.0, min_seconds 0.01 instead of 1.0, max_seconds 3600.0 instead of 20.0" in frames
    assert len(check_crops(FOUND, VOXCELEB2.to_dict())) == 1, "a detector's margin has no counterpart in a fixed crop"
    with pytest.raises(RecipeMismatchError, match="size"):
        check_crops(replace(OWNERS, size=112), VOXCELEB2.to_dict())


def test_weights_that_do_not_say_their_crop_are_said_to():
    assert "nothing was compared" in check_crops(FOUND, None)[0]


def test_a_run_compares_them_and_its_results_say_so(tmp_path):
    """The shards of the fixture are faces=none of 32 pixels."""
    people = {"facts": lambda n: {"subject": f"p{n}", "labels": {"smile": ("no", "yes")[n % 2]}}}
    shards = make_shards(tmp_path / "shards", shard_sizes=(12,), num_frames=10, audio=False, **people)
    arch = {"embed_dim": 32, "depth": 1, "num_heads": 1, "img_size": 32, "num_frames": 4}
    model = ssl_affect.create_model("mae_dfer_tiny", **arch)
    for name, size in (("other", 64), ("same", 32)):
        recipe = replace(VOXCELEB2, size=size).to_dict()
        config = WeightsConfig(name="mae_dfer_tiny", task="classify", arch=model.spec.arch, recipe=recipe)
        save_weights(tmp_path / name, Weights(config, model.state_dict()))
    task = {"kind": "expression", "columns": ["smile"], "classes": ["no", "yes"]}
    values = {
        "model": {
            "init_args": {
                "model": "mae_dfer_tiny",
                "tasks": [task],
                "tuning": {"mode": "full"},
                "optim": {"base_lr": 0.01, "min_lr": 0.0, "betas": [0.9, 0.999], "weight_decay": 0.05},
                "schedule": {"steps": 1, "warmup_steps": 0},
            }
        },
        "data": {
            "shards": str(shards),
            "clip": {"num_frames": 4, "stride": 2, "size": 32},
            "batch_size": 4,
            "num_workers": 0,
            "split": {"test_share": 0.3, "validation_share": 0},
        },
        "trainer": {"accelerator": "cpu", "devices": 1},
        "logging": {"tensorboard": False},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    run = tmp_path / "run"
    fit = ["fit", "--config", str(tmp_path / "run.yaml"), "--run", str(run), "--model.init_args.pretrained"]
    with pytest.raises(RecipeMismatchError, match=r"size +clips 32 +weights 64"):
        main([*fit, str(tmp_path / "other")])
    assert main([*fit, str(tmp_path / "same")]) == 0
    report = run / "test" / "expression" / "report.json"
    assert "were cropped as faces=fixed" in report.read_text()
    report.unlink()
    assert main(["test", str(run)]) == 0
    assert "were cropped as faces=fixed" in report.read_text(), "a test that is done again says it too"
