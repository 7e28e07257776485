"""Small pretraining runs of several processes on the CPU, and whether they are the runs of one process."""

import os
from pathlib import Path

import pytest
import torch
from pretrain_runs import CONFIGS, SMOKE, arguments, column, steps

from pretrain.cli import main

CLIP = 0.1  # every step of these runs is clipped, see equal_columns
CLIPPED = [*steps(8, every=4), "--model.optim.base_lr=3e-2", "--model.schedule.warmup_steps=0"]
CLIPPED += [f"--trainer.gradient_clip_val={CLIP}"]
PAIR = ["--trainer.devices=2", "--data.batch_size=2"]
WHOLE = ["--data.batch_size=4", "--trainer.devices=1", "--trainer.strategy=auto"]
HICMAE = ["--model.init_args.gather=true", "--trainer.cpu_threads=1"]
LAYER_DECAY = ["--model.optim.layer_decay=0.7"]
PATIENCE_S = 900.0  # with a run; half a minute is usual, and a machine that is busy takes many times as long
TESTS = Path(__file__).parent


def arguments_of(run: Path, shards: Path, *extra: str) -> list[str]:
    """Of configs/smoke.yaml, or of configs/smoke_hicmae.yaml where the contrast gathers clips."""
    config = CONFIGS / ("smoke_hicmae.yaml" if HICMAE[0] in extra else "smoke.yaml")
    return [str(config) if word == str(SMOKE) else word for word in arguments(run, shards, *extra)]


def train(run: Path, shards: Path, *extra: str) -> int:
    """A run in this process."""
    return main(arguments_of(run, shards, *extra))


def environment_of(**more: str) -> dict[str, str]:
    """Of a process that imports the suite and the makers of the tests, and computes with one thread."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def close(ours: dict, theirs: dict) -> None:
    """Two checkpoints agree to floating-point noise: weights, moments, and the groups of the optimizer."""
    for name, weight in theirs["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][name], weight, rtol=1e-4, atol=1e-5)
    (a,), (b,) = ours["optimizer_states"], theirs["optimizer_states"]
    for key in ("names", "lr", "lr_scale", "weight_decay"):
        assert [group[key] for group in a["param_groups"]] == [group[key] for group in b["param_groups"]], key
    for number, values in b["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(a["state"][number][name], value, rtol=1e-3, atol=1e-6)


def equal_columns(run: Path, single: Path, *, contrasts: bool = False, norm: bool = True) -> None:
    """The metrics agree to floating-point noise.

    Args:
        run: A run.
        single: The run of one process.
        contrasts: Held-out clips are contrasted batch by batch, so that terms of it depend on the size of a batch.
        norm: Whether ``run`` knows the norm of its gradients.
    """
    held_out = ("val/video", "val/audio") if contrasts else ("val/loss",)
    for name in ("train/loss", "lr", *held_out, *(["train/grad_norm"] if norm else [])):
        assert column(run, name) == pytest.approx(column(single, name), rel=1e-3), name


def was_clipped(run: Path) -> bool:
    """Whether the gradients of all steps were longer than what CLIPPED lets through."""
    return min(column(run, "train/grad_norm").values()) > CLIP
