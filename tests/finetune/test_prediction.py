"""Predictions of a part: every sample once for any views, ranks and batches, equal to a slow loop over all of it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from finetune_runs import (
    AFFECT,
    CLIP,
    EXPRESSION,
    PARTS,
    PER_FRAME,
    UNITS,
    facts,
    labelled_shards,
    make_data,
    make_module,
)

from finetune.prediction import collect, merge, predict
from finetune.tasks import Targets
from ssl_affect.data.clips import read_clip
from ssl_affect.data.sampling import frame_windows, test_indices
from ssl_affect.data.schema import frame_offsets
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import ConfigError, PredictionsError

test_indices.__test__ = False  # its name says what it is for, and is not that of a test
TEST = [number for number, part in enumerate(PARTS) if part == "test"]
CLIPS = (EXPRESSION, UNITS, AFFECT)


@pytest.fixture(scope="module")
def module():
    return make_module(*CLIPS)


@pytest.fixture(scope="module")
def frames():
    return make_module(*PER_FRAME)


def outputs_of(module, data, number, indices):
    """Outputs of one clip, alone, by task."""
    video = torch.from_numpy(read_clip(data.shards, number, indices)).unsqueeze(0)
    side = data.shards.recipe.size
    with torch.no_grad():
        return module.eval().predict(prepare_clips(video, torch.tensor([[0, 0, side, side]]), CLIP.size), None, None)


def probabilities(kind, rows):
    rows = rows.double()
    return (rows.softmax(-1) if kind == "expression" else rows.sigmoid() if kind == "au" else rows).numpy()


@pytest.mark.parametrize("views", [1, 2, 5])
def test_clips_equal_a_loop_over_samples_and_views(shards, module, views):
    data = make_data(shards, batch_size=3, groups=["sex"])
    found, losses = predict(module, data, "test", views=views)
    assert list(found) == ["expression", "au", "va"]
    raw = {task.name: [] for task in module.tasks}
    for row, number in enumerate(TEST):
        of_views = [outputs_of(module, data, number, indices) for indices in test_indices(14, CLIP, views)]
        for task in module.tasks:
            raw[task.name] += [outputs[task.name] for outputs in of_views]
            mean = np.mean([probabilities(task.kind, outputs[task.name][0]) for outputs in of_views], axis=0)
            of_task = found[task.name]
            if task.kind == "expression":
                np.testing.assert_allclose(of_task.scores[row], mean, atol=1e-6)
            else:
                np.testing.assert_allclose(of_task.predicted[row], np.where(of_task.mask[row], mean, 0), atol=1e-6)
    names = [f"clip{number:05d}" for number in TEST]
    for task in module.tasks:
        of_task = found[task.name]
        assert of_task.ids.tolist() == names, "every sample once"
        assert of_task.subject.tolist() == [f"p{number}" for number in TEST]
        assert of_task.source.tolist() == [f"videos/{name}.mp4" for name in names]
        assert of_task.groups["sex"].tolist() == ["fm"[number % 2] for number in TEST]
        assert set(of_task.fold) == {"part"}
        labels = [data.labels(number) for number in TEST for _ in range(views)]
        expected = float(task.loss(torch.cat(raw[task.name]), task.encode(labels)))
        assert losses[f"{task.name}/loss"] == pytest.approx(expected, rel=1e-5)
    assert losses["loss"] == pytest.approx(sum(losses[f"{task.name}/loss"] for task in module.tasks))


def test_labels_are_as_given_and_missing_ones_are_masked(shards, module):
    found, _ = predict(module, make_data(shards), "train")
    kept = [number for number in range(8) if number != 3]
    assert found["expression"].ids.tolist() == [f"clip{number:05d}" for number in kept]
    assert found["expression"].labels.tolist() == [number % 3 for number in kept]
    assert found["expression"].num_unlabelled == 1
    labels = [facts(number)["labels"] for number in range(8)]
    assert found["au"].mask[:, 0].tolist() == [number % 4 != 0 for number in range(8)], "9 is no label"
    assert found["au"].labels[:, 1].tolist() == [float(row["au12"] >= 2) for row in labels]
    assert found["va"].mask[:, 0].tolist() == [number != 5 for number in range(8)], "-5 is no label"
    assert found["va"].labels[:, 1].tolist() == [row["arousal"] for row in labels], "to the last digit"


def test_frames_equal_a_loop_over_windows(shards, frames):
    data = make_data(shards, batch_size=3)
    found, losses = predict(frames, data, "test")
    windows = frame_windows(14, CLIP)
    for task in frames.tasks:
        of_task = found[task.name]
        raw, shown = [], []
        for number in TEST:
            total, count = np.zeros((14, task.num_outputs)), np.zeros(14)
            for window in windows:
                outputs = outputs_of(frames, data, number, window)[task.name]
                raw.append(outputs), shown.append((number, window))
                for at, frame in enumerate(window.tolist()):
                    if frame not in window[:at]:
                        total[frame] += probabilities(task.kind, outputs[0, at])
                        count[frame] += 1
            expected = total / count[:, None]
            labels = data.labels(number)
            for frame in range(14):
                rows = np.flatnonzero(
                    (of_task.ids == f"clip{number:05d}") & (of_task.time == 10 + round(frame / 25, 6))
                )
                cells = [labels[column][frame] for column in task.spec.columns]
                if cells == [-1] and task.kind == "expression":
                    assert len(rows) == 0
                    continue
                (row,) = rows
                missing = [cell == (-5 if task.kind == "va" else -1) for cell in cells]
                if task.kind == "expression":
                    np.testing.assert_allclose(of_task.scores[row], expected[frame], atol=1e-6)
                    assert of_task.labels[row] == cells[0]
                else:
                    kept = np.where(missing, 0, expected[frame])
                    np.testing.assert_allclose(of_task.predicted[row], kept, atol=1e-6)
                    assert of_task.mask[row].tolist() == [not one for one in missing]
                    assert of_task.labels[row].tolist() == [0 if m else c for m, c in zip(missing, cells, strict=True)]
        targets = task.encode_frames(
            [data.labels(number) for number, _ in shown], torch.from_numpy(np.stack([window for _, window in shown]))
        )
        assert losses[f"{task.name}/loss"] == pytest.approx(float(task.loss(torch.cat(raw), targets)), rel=1e-5)
    assert found["va"].labels.min() == -1.0, "-1 is a legal valence"
    assert len(found["va"]) == 5 * 14


def test_clips_and_frames_together(shards):
    """Each loss is that of its own clips, however many windows the other task needs."""
    both, data = make_module(AFFECT, PER_FRAME[1]), make_data(shards)
    found, losses = predict(both, data, "validation")
    assert (len(found["va"]), len(found["au"])) == (4, 4 * 14)
    for task, views in zip(both.tasks, ("validation", "frames"), strict=True):
        with torch.no_grad():
            batches = [
                (both.predict(*both.prepare(b), None), both.targets(b)) for b in data.batches("validation", views)
            ]
        outputs = torch.cat([outputs[task.name] for outputs, _ in batches])
        targets = Targets(*(torch.cat(parts) for parts in zip(*(t[task.name] for _, t in batches), strict=True)))
        assert losses[f"{task.name}/loss"] == pytest.approx(float(task.loss(outputs, targets)), rel=1e-5)
    assert losses["loss"] == pytest.approx(losses["va/loss"] + losses["au/loss"])


@pytest.mark.parametrize("kind", ["clips", "frames"])
def test_ranks_and_batches_do_not_matter(shards, module, frames, kind):
    model = module if kind == "clips" else frames
    whole, losses = predict(model, make_data(shards, batch_size=4), "test", views=3)
    for world_size, size in ((2, 2), (3, 1), (7, 4)):
        ranks = []
        for rank in range(world_size):
            data = make_data(shards, batch_size=size)
            data.trainer = SimpleNamespace(world_size=world_size, global_rank=rank, num_devices=1)
            ranks.append(collect(model, data, "test", views=3))
        found, other = merge(model, data, ranks)
        for name, of_task in whole.items():
            assert of_task.ids.tolist() == found[name].ids.tolist()
            np.testing.assert_allclose(of_task.predicted, found[name].predicted, atol=1e-6)
            assert found[name].num_duplicates == 0
        assert other == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("late", [False, True])
def test_a_sample_counts_as_a_whole_or_not_at_all(tmp_path, module, frames, late):
    """A video whose end is damaged: its first view could be decoded, but does not stand for both."""
    folder = labelled_shards(tmp_path / "shards", damaged=() if late else (13,))
    if late:
        damage_end(folder, 13)
    data = make_data(folder, max_bad_evaluation=0.2, batch_size=1)
    found, _ = predict(module, data, "test")
    assert found["va"].ids.tolist() == [f"clip{number:05d}" for number in TEST if number != 13]
    assert list(data.undecodable) == ["clip00013"]
    again = make_data(folder, max_bad_evaluation=0.2, batch_size=1)
    assert "clip00013" not in predict(frames, again, "test")[0]["va"].ids.tolist()


def damage_end(folder, number):
    """Scrambles the last frame of a packed video in its shard, as a bad disk would; nothing is hashed again."""
    shards = ShardSet(folder)
    size = shards.member_size(number, "jpgs")
    offsets = frame_offsets(shards.read_range(number, "jpgs", 0, min(size, 8 + 4 * 15)), size=size)
    member = shards.read(number, "jpgs")
    place = folder / shards.shard_of(number)
    data = bytearray(place.read_bytes())
    at = data.find(member)
    start, stop = int(offsets[-3]), int(offsets[-1])
    data[at + start : at + stop] = bytes(stop - start)
    place.write_bytes(data)


def test_an_evaluation_leaves_the_module_as_it_was(shards, module):
    module.train()
    state = torch.get_rng_state()
    predict(module, make_data(shards), "validation")
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_that_are_not_numbers_are_refused(shards):
    broken = make_module(AFFECT)
    with torch.no_grad():
        broken.model.head.weight[0, 0] = math.nan
    with pytest.raises(ConfigError, match=r"sample 'clip\d+', view \(\d, 0\): the logits are not finite.*the weights"):
        predict(broken, make_data(shards), "test")
    frames = make_module(PER_FRAME[2])
    with torch.no_grad():
        frames.frame_head.head.weight[0, 0] = math.nan
    with pytest.raises(ConfigError, match=r"window \d+: the logits are not finite.*the weights"):
        predict(frames, make_data(shards), "test")


def test_labels_of_other_frames_are_refused(tmp_path, frames):
    def longer(number):
        return facts(number, num_frames=14 + (number == 15))

    with pytest.raises(PredictionsError, match="clip00015 has labels of 15 frames and 14 stored frames"):
        predict(frames, make_data(labelled_shards(tmp_path / "longer", facts=longer)), "test")


def test_samples_without_any_label_of_a_frame_are_left_out(tmp_path, frames):
    def some(number):
        found = facts(number)
        if number in (14, 15):
            columns = [name for name in found["labels"] if name.startswith("frame_")]
            found["labels"] |= dict.fromkeys(columns, None if number == 14 else [])
        return found

    found, losses = predict(frames, make_data(labelled_shards(tmp_path / "some", facts=some)), "test")
    for of_task in found.values():
        assert set(of_task.ids.tolist()) == {"clip00012", "clip00013", "clip00016"}
    assert np.isfinite(losses["loss"])


def test_predictions_do_not_depend_on_other_clips_of_the_batch(shards, module):
    one, many = (predict(module, make_data(shards, predict_batch_size=size), "test")[0]["va"] for size in (1, 5))
    np.testing.assert_allclose(one.predicted, many.predicted, atol=1e-6)
