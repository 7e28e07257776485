"""Labelled clips: every sample once per epoch, every view once per evaluation, and nothing left out silently."""

import json
import random
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shard_fixture import FPS, frame_level, make_shards

from finetune.data import LabelledClips
from finetune.split import SplitSpec
from ssl_affect.data.augment import AugmentSpec
from ssl_affect.data.sampling import frame_windows, is_new_frame, test_indices, val_indices
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, ProtocolError, ShardError
from ssl_affect.types import AudioSpec, ClipSpec

test_indices.__test__ = False  # its name says what it is for, and is not that of a test
CLIP = ClipSpec(num_frames=4, stride=2, size=24)
COLUMN = SplitSpec(column="part")
AUGMENT = AugmentSpec(
    rand_augment="rand-m7-n4-mstd0.5-inc1",
    crop_scale=(0.3, 1.0),
    crop_ratio=(0.75, 1.33),
    flip=0.5,
    erase=0.5,
    erase_area=(0.02, 0.3),
    erase_ratio=(0.3, 3.3),
)
PARTS = ["train"] * 10 + ["val"] * 3 + ["test"] * 4


def facts(number):
    return {
        "subject": f"p{number}",
        "start_s": 10.0,
        "labels": {"part": PARTS[number], "expression": ("happy", "sad")[number % 2], "valence": number / 16},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("set"), shard_sizes=(6, 5, 6), num_frames=(5, 30), facts=facts)


def trainer(world_size=1, rank=0, folder="."):
    """What the data module asks a trainer."""
    return SimpleNamespace(world_size=world_size, global_rank=rank, num_devices=1, default_root_dir=str(folder))


def data(folder, *, at=None, **settings):
    given = {"clip": CLIP, "batch_size": 3, "seed": 7, "split": COLUMN, "num_workers": 0}
    module = LabelledClips(shards=folder, **{**given, **settings})
    module.trainer = at
    return module


def training(folder, *, world_size=1, rank=0, state=None, **settings):
    module = data(folder, at=trainer(world_size, rank, settings.pop("run", ".")), **settings)
    module.setup("fit")
    if state is not None:
        module.load_state_dict(state)
    return module


# --------------------------------------------------------------------------------------------------------------------
# Evaluation


def expected_views(module, part, views):
    numbers = {"train": range(10), "validation": range(10, 13), "test": range(13, 17)}[part]
    count = views if isinstance(views, int) else 1
    found = Counter()
    for number in numbers:
        if views == "frames":
            count = len(frame_windows(module.shards.num_frames(number), CLIP))
        found.update((module.shards.key(number), view) for view in range(count))
    return found


@pytest.mark.parametrize("views", [1, 2, 3, "validation", "frames"])
def test_every_view_of_every_sample_comes_once_whatever_the_ranks_and_batches(folder, views):
    rng = random.Random(str(views))
    for part in ("train", "validation", "test"):
        pixels = {}
        for _ in range(3):
            world_size, size = rng.randint(1, 5), rng.randint(1, 7)
            seen = Counter()
            for rank in range(world_size):
                module = data(folder, at=trainer(world_size, rank))
                for batch in module.batches(part, views, batch_size=size):
                    assert len(batch) <= size
                    for row, name in enumerate(zip(batch.key, batch.view.tolist(), strict=True)):
                        seen[name] += 1
                        assert torch.equal(pixels.setdefault(name, batch.video[row]), batch.video[row])
            assert seen == expected_views(module, part, views)


def test_workers_change_nothing(folder):
    alone, workers = (list(data(folder, num_workers=n).batches("test", "frames")) for n in (0, 2))
    assert [b.key for b in alone] == [b.key for b in workers]
    assert all(
        torch.equal(a.video, b.video) and torch.equal(a.frames, b.frames) for a, b in zip(alone, workers, strict=True)
    )


def test_what_a_view_shows(folder):
    module = data(folder)
    rules = {
        "validation": lambda n: val_indices(n, CLIP)[None],
        "frames": lambda n: frame_windows(n, CLIP),
        2: lambda n: test_indices(n, CLIP, 2),
    }
    for views, rule in rules.items():
        for batch in module.batches("test", views):
            rows = zip(batch.sample.tolist(), batch.view.tolist(), batch.frames, batch.video, strict=True)
            for sample, view, frames, video in rows:
                assert frames.tolist() == rule(module.shards.num_frames(sample))[view].tolist()
                levels = video[:, 2:10, 2:10].float().mean(dim=(1, 2, 3))
                assert torch.allclose(levels, torch.tensor([float(frame_level(int(f))) for f in frames]), atol=3)
            assert batch.crop.tolist() == [[0, 0, 32, 32]] * len(batch)
            assert batch.flip is None
            assert batch.erase is None


def test_the_usual_views_of_a_part(folder):
    module = data(folder, test_views=3)
    assert [sum(map(len, module.batches(part))) for part in ("train", "validation", "test")] == [10, 3, 12]
    assert [sum(map(len, module.batches(part))) for part in ("validation", "validation")] == [3, 3]


def test_labels_and_what_else_is_known_go_with_the_samples(folder):
    module = data(folder)
    for batch in module.batches("test"):
        assert batch.labels == [facts(int(key[4:]))["labels"] for key in batch.key]
        assert [module.samples[i].key for i in batch.sample.tolist()] == batch.key
    assert (module.subject(3), module.source(3)) == ("p3", "videos/clip00003.mp4")
    assert module.labels(3)["valence"] == 3 / 16
    assert module.frame_times(3)[:3] == pytest.approx([10.0, 10.0 + 1 / FPS, 10.0 + 2 / FPS])


def test_frames_of_short_clips_are_padded_and_every_frame_is_shown(folder):
    clip = ClipSpec(num_frames=16, stride=3, size=24)
    module = data(folder, clip=clip)
    shown = {}
    for batch in module.batches("test", "frames"):
        new = is_new_frame(batch.frames.numpy())
        for row, key in enumerate(batch.key):
            shown.setdefault(key, Counter()).update(batch.frames[row].numpy()[new[row]].tolist())
    for number in range(13, 17):
        assert set(shown[module.shards.key(number)]) == set(range(module.shards.num_frames(number)))


def test_views_and_parts_that_do_not_exist_are_refused(folder):
    module = data(folder)
    for views in (0, -1, "all", 1.5):
        with pytest.raises(ConfigError, match="give a number from 1, 'validation' or 'frames'"):
            next(module.batches("test", views))
    with pytest.raises(ConfigError, match="part 'dev' is unknown"):
        next(module.batches("dev"))
    everything = data(folder, split=SplitSpec(column="part", fold="test", validation_share=0))
    assert not everything.has_validation
    with pytest.raises(ConfigError, match="the validation part has no samples"):
        next(everything.batches("validation"))


# --------------------------------------------------------------------------------------------------------------------
# Training


def steps(modules, count):
    """Steps of all ranks: (keys, positions, videos) in the order of the global batches."""
    iterators = [iter(module.open_stream) for module in modules]
    batches = []
    for _ in range(count):
        batches += [next(iterator) for iterator in iterators]
        for module in modules:
            module.open_stream.commit()
    for iterator in iterators:
        next(iterator)  # decoded ahead, and lost when the job dies
    return batches


def test_each_epoch_is_a_permutation_and_a_resumed_run_goes_on_exactly(folder):
    reference = steps([training(folder, batch_size=10, augment=AUGMENT)], 4)
    epochs = [batch.key for batch in reference]
    assert all(sorted(keys) == [f"clip{i:05d}" for i in range(10)] for keys in epochs)
    assert len({tuple(keys) for keys in epochs}) == 4
    videos = {int(p): v for b in reference for p, v in zip(b.position, b.video, strict=True)}
    drawn = {
        int(p): (c.tolist(), bool(f), e.tolist())
        for b in reference
        for p, c, f, e in zip(b.position, b.crop, b.flip, b.erase, strict=True)
    }
    rng, state, done = random.Random(3), None, []
    while len(done) < 30:
        world_size, size, workers = rng.randint(1, 3), rng.randint(1, 3), rng.choice([0, 0, 1])
        modules = [
            training(
                folder,
                world_size=world_size,
                rank=r,
                state=state,
                batch_size=size,
                num_workers=workers,
                augment=AUGMENT,
            )
            for r in range(world_size)
        ]
        for batch in steps(modules, rng.randint(1, 3)):
            done += batch.position.tolist()
            for row, position in enumerate(batch.position.tolist()):
                if position in videos:
                    assert torch.equal(batch.video[row], videos[position])
                    assert (batch.crop[row].tolist(), bool(batch.flip[row]), batch.erase[row].tolist()) == drawn[
                        position
                    ]
                    assert batch.labels[row] == facts(int(batch.key[row][4:]))["labels"]
        states = [module.state_dict() for module in modules]
        assert all(other == states[0] for other in states)
        state = json.loads(json.dumps(states[0]))
    assert done == list(range(len(done)))


def test_augmented_clips_have_the_size_of_the_model(folder):
    module = training(folder, augment=AUGMENT, batch_size=10)
    batch = next(iter(module.open_stream))
    assert batch.video.shape == (10, 4, 24, 24, 3)
    assert batch.flip.dtype == torch.bool
    assert 0 < int(batch.flip.sum()) < 10
    assert batch.erase.shape == (10, 4)
    assert len(set(map(tuple, batch.crop.tolist()))) > 1
    moved = batch.to("cpu")
    assert torch.equal(moved.erase, batch.erase)
    plain = next(iter(training(folder, batch_size=10).open_stream))
    assert plain.video.shape == (10, 4, 32, 32, 3)
    assert plain.key == batch.key
    assert torch.equal(plain.frames, batch.frames), "the place of a clip does not depend on its augmentation"


def test_the_published_spacing_of_training_clips(tmp_path):
    folder = make_shards(tmp_path, shard_sizes=(17,), num_frames=60, facts=facts)
    clip = ClipSpec(num_frames=4, stride=8, size=24)
    even, reference = (
        next(iter(training(folder, clip=clip, train_frames=rule, batch_size=10).open_stream)).frames.diff(dim=1)
        for rule in ("even", "reference")
    )
    assert set(even.flatten().tolist()) == {8}
    assert set(reference.flatten().tolist()) <= {9, 10, 11}, "span / (T - 1), as published"


def test_a_state_of_other_parts_is_refused(folder):
    state = training(folder).state_dict()
    assert state["samples"] != training(folder, split=SplitSpec(test_share=0.3)).state_dict()["samples"]
    with pytest.raises(ShardError, match="trained with samples="):
        training(folder, split=SplitSpec(test_share=0.3), state=state)


def test_the_fingerprint_is_that_of_data_and_parts(folder, tmp_path):
    one = data(folder)
    assert one.num_samples == 10
    assert one.fingerprint == data(folder, batch_size=1, seed=1).fingerprint
    assert one.fingerprint != data(folder, split=SplitSpec(test_share=0.3)).fingerprint
    other = make_shards(tmp_path, shard_sizes=(6, 5, 6), num_frames=(5, 30), facts=facts, seed=1)
    assert one.fingerprint != data(other).fingerprint
    assert one.facts()["parts"]["validation"] == 3
    assert "10 train, 3 validation, 4 test samples" in one.summary()
    json.dumps(one.facts())


# --------------------------------------------------------------------------------------------------------------------
# What cannot be decoded, and sound


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    """Sample 2 of the training part and 14 of the test part are damaged."""
    folder = tmp_path_factory.mktemp("bad")
    return make_shards(folder, shard_sizes=(8, 9), num_frames=(8, 12), damaged=(2, 14), audio=False, facts=facts)


def test_an_evaluation_stops_at_a_sample_that_cannot_be_decoded(damaged):
    module = data(damaged)
    assert sum(map(len, module.batches("validation"))) == 3
    with pytest.raises(
        ShardError, match=r"1 of 4 samples of the test part cannot be decoded(.|\n)*train-000001.tar clip00014"
    ):
        list(module.batches("test"))


def test_an_evaluation_that_may_go_on_names_what_it_does_not_cover(damaged):
    module = data(damaged, max_bad_evaluation=0.25, batch_size=1)
    batches = list(module.batches("test"))
    assert [key for batch in batches for key in batch.key] == [f"clip{i:05d}" for i in (13, 13, 15, 15, 16, 16)]
    assert list(module.undecodable) == ["clip00014"]
    list(module.batches("test"))
    assert list(module.undecodable) == ["clip00014"]


def test_training_leaves_a_bad_sample_out_and_writes_it_down(damaged, tmp_path):
    module = training(damaged, batch_size=1, run=tmp_path, augment=AUGMENT, max_bad_fraction=0.2)
    batches = list(islice(iter(module.open_stream), 20))
    blank = [batch for batch in batches if batch.is_blank]
    assert len(blank) == 2
    for batch in blank:
        assert batch.weight == 0
        assert batch.video.shape == (1, 4, 24, 24, 3)
        assert batch.labels == [facts(0)["labels"]], "labels that any task can read"
        assert batch.frames.tolist() == [[0, 0, 0, 0]]
        assert (batch.flip.tolist(), batch.erase.tolist()) == ([False], [[0, 0, 0, 0]])
    rows = (tmp_path / "bad_clips.jsonl").read_text().splitlines()
    assert [json.loads(row)["key"] for row in rows] == ["clip00002"]
    with pytest.raises(ShardError, match="max_bad_fraction=0 allows"):
        list(islice(iter(training(damaged, run=tmp_path, max_bad_fraction=0).open_stream), 10))


def test_the_sound_is_that_of_the_frames(folder):
    module = training(folder, audio=AudioSpec(), batch_size=10)
    clips = [next(iter(module.open_stream)), *module.batches("validation"), *module.batches("test")]
    for batch in clips:
        assert batch.audio_valid.all()
        for sample, frames, length in zip(
            batch.sample.tolist(), batch.frames, batch.audio_length.tolist(), strict=True
        ):
            count = module.shards.num_frames(sample)
            last = min(int(frames[0]) + CLIP.span, count - 1)
            if count > CLIP.span:  # for longer videos, both published rules say the same
                assert length == round((last - int(frames[0]) + 1) / FPS * 16000)


def test_only_the_samples_of_a_part_need_sound(tmp_path):
    def without(number):
        return {**facts(number), "labels": {} if number == 16 else facts(number)["labels"]}

    folder = make_shards(tmp_path, shard_sizes=(17,), num_frames=30, mute=(16,), facts=without)
    split = SplitSpec(column="part", max_missing=0.1)
    data(folder, split=split, audio=AudioSpec(), missing_audio="refuse")
    with pytest.raises(ShardError, match=r"1 of \d+ samples have no sound \(clip00016\)"):
        data(folder, split=SplitSpec(test_share=0.3), audio=AudioSpec(), missing_audio="refuse")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_views": 0}, "test_views=0"),
        ({"predict_batch_size": 0}, "predict_batch_size=0"),
        ({"max_bad_evaluation": 1.0}, "max_bad_evaluation=1.0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_settings_out_of_range_are_refused(folder, settings, message):
    with pytest.raises(ConfigError, match=message):
        data(folder, **settings)


def test_a_leaking_column_stops_before_anything_is_read(tmp_path):
    folder = make_shards(
        tmp_path, shard_sizes=(17,), num_frames=2, audio=False, facts=lambda i: {**facts(i), "subject": f"p{i % 5}"}
    )
    with pytest.raises(ProtocolError, match="5 subjects stand in more than one part"):
        data(folder)


def test_samples_are_those_of_the_shards(folder):
    module = data(folder)
    shards = ShardSet(folder)
    assert [one.num_frames for one in module.samples] == [shards.num_frames(i) for i in range(17)]
    assert np.array_equal(module.parts.train, np.arange(10))
