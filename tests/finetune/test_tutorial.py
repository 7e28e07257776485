"""What the guide to finetuning shows is run: its ten lines for a new task; other recipes and modes are read."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shard_fixture import make_shards

from finetune.cli import main
from finetune.config import FinetuneCLI

GUIDE = (Path(__file__).parents[2] / "docs" / "finetuning.md").read_text(encoding="utf-8")
TUTORIAL = GUIDE.split("## A new task")[1].split("\n## ")[0]


def blocks(language, text=GUIDE):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    def facts(number):
        return {"subject": f"s{number // 2:03}", "labels": {"brows": ("resting", "raised")[number % 2]}}

    return make_shards(tmp_path_factory.mktemp("brows"), shard_sizes=(24,), num_frames=50, size=48, facts=facts)


def test_the_ten_lines_train_and_test_a_model(shards, tmp_path):
    (recipe,) = blocks("yaml", TUTORIAL)
    assert len(recipe.splitlines()) == 10
    (tmp_path / "brows.yaml").write_text(recipe)
    run = tmp_path / "run"
    own = [f"--data.shards={shards}", f"--run={run}", "--data.num_workers=0", "--trainer.max_steps=2"]
    small = ["--data.clip.size=32", "--model.arch={depth: 1, embed_dim: 32, num_heads: 1}"]
    cpu = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--logging.tensorboard=false"]
    assert main(["fit", "--config", str(tmp_path / "brows.yaml"), *own, *small, *cpu]) == 0
    with open(run / "test" / "expression" / "predictions.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    assert {row["label"] for row in rows} == {"resting", "raised"}
    assert {row["selection"] for row in rows} == {"validation", "last"}
    assert len(rows) == 2 * 6, "a quarter of 24 clips, by both checkpoints"


def test_the_lines_that_make_the_table_make_a_manifest(tmp_path):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "manifest.csv").write_text("path,subject,au01\na.mp4,s0,2.0\nb.mp4,s1,1.9\n")
    (lines,) = blocks("python", TUTORIAL)
    subprocess.run([sys.executable, "-c", lines], cwd=tmp_path, check=True)
    assert (tmp_path / "brows.csv").read_text().split() == ["path,subject,brows", "a.mp4,s0,raised", "b.mp4,s1,resting"]


def test_every_other_recipe_of_the_guide_is_one(shards, tmp_path):
    others = [block for block in blocks("yaml") if block not in TUTORIAL]
    assert others
    for number, recipe in enumerate(others):
        path = tmp_path / f"{number}.yaml"
        path.write_text(recipe)
        own = [
            f"--data.shards={shards}",
            f"--run={tmp_path / 'run'}",
            "--model.pretrained=null",
            "--model.arch.depth=1",
        ]
        split = ["--data.split.protocol=null", "--data.split.test_share=0.3"]
        with torch.device("meta"):
            module = FinetuneCLI.parse(["--config", str(path), *own, *split, "--trainer.accelerator=cpu"]).model
        assert module.frame_head.head.out_features == sum(task.num_outputs for task in module.tasks)


def test_modes_of_the_guide_are_modes(shards, tmp_path):
    (recipe,) = blocks("yaml", TUTORIAL)
    (tmp_path / "brows.yaml").write_text(recipe)
    own = ["--config", str(tmp_path / "brows.yaml"), f"--data.shards={shards}", f"--run={tmp_path / 'run'}"]
    found = re.findall(r"`(\{mode: [^`]*\})`", GUIDE)
    assert len(found) == 6
    for tuning in found:
        with torch.device("meta"):
            module = FinetuneCLI.parse([*own, f"--model.tuning={tuning}", "--model.arch.depth=2"]).model
        assert module.tuning.mode in tuning
