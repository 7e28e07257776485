import json

import numpy as np
import pytest
import torch
from shard_fixture import frame_level, make_shards
from torch.utils.data import DataLoader

from ssl_affect.data.clips import ClipBatch, ClipDataset, collate, read_clip
from ssl_affect.data.decode import decode_video
from ssl_affect.data.plan import EpochPlan
from ssl_affect.data.schema import Manifest
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.types import ClipSpec

CLIP = ClipSpec(num_frames=4, stride=3, size=32)
SHAPE = (4, 32, 32, 3)


@pytest.fixture(scope="module", params=["jpeg", "h264"])
def shards(request, tmp_path_factory):
    folder = make_shards(tmp_path_factory.mktemp(request.param), codec=request.param, shard_sizes=(3, 2))
    return ShardSet(folder)


def dataset(shards, **arguments):
    plan = EpochPlan(shards.shard_sizes, seed=1)
    return ClipDataset(shards, CLIP, **{"plan": plan, "seed": 1, **arguments})


def test_a_clip_holds_the_frames_asked_for(shards):
    whole = decode_video(shards.read(2, shards.video_extension), shards.recipe.video_codec)
    for indices in ([0, 3, 6, 9], [4, 4, 4], [shards.num_frames(2) - 1], [9, 2, 5]):
        assert np.array_equal(read_clip(shards, 2, np.array(indices)), whole[indices])


def test_only_the_window_of_packed_jpeg_is_read(tmp_path, monkeypatch):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=(1,), num_frames=200))
    sizes = []
    read_range = ShardSet.read_range

    def counting(self, i, extension, start, stop):
        sizes.append(stop - start)
        return read_range(self, i, extension, start, stop)

    monkeypatch.setattr(ShardSet, "read_range", counting)
    read_clip(shards, 0, np.arange(50, 80, 4))
    assert sum(sizes) < shards.member_size(0, "jpgs") * 0.25


def test_a_position_gives_the_same_clip_always(shards):
    first, again = dataset(shards), dataset(shards)
    clips = [first[position] for position in range(12)]
    for position in (11, 3, 7, 0):
        clip = again[position]
        assert clip["key"] == clips[position]["key"]
        assert torch.equal(clip["crop"], clips[position]["crop"])
        assert torch.equal(clip["video"], clips[position]["video"])
    assert sorted(clip["key"] for clip in clips[:5]) == sorted(shards.key(i) for i in range(5))


def test_another_epoch_or_seed_gives_another_clip_of_a_sample(tmp_path):
    shards = ShardSet(make_shards(tmp_path, shard_sizes=(1,), num_frames=200, audio=False))
    clips = [dataset(shards)[position] for position in range(6)] + [dataset(shards, seed=2)[0]]
    assert len({tuple(clip["crop"].tolist()) for clip in clips}) > 1
    assert len({clip["video"][0].numpy().tobytes() for clip in clips}) > 3


def test_times_are_those_of_the_first_frame(shards):
    for position in range(8):
        clip = dataset(shards, frame_times=True)[position]
        number = round(clip["start_time_s"] * 25)
        corner = clip["video"][0, 4:12, 4:12].float().mean()
        assert abs(float(corner) - frame_level(number)) < 8
    assert dataset(shards)[0]["start_time_s"] is None


def test_crops_fit_the_stored_frame(shards):
    data = dataset(shards)
    for position in range(20):
        top, left, height, width = data[position]["crop"].tolist()
        assert 0 <= top <= top + height <= 32
        assert 0 <= left <= left + width <= 32
    assert dataset(shards, multi_scale=False)[0]["crop"].tolist() == [0, 0, 32, 32]


def test_evaluation_takes_the_middle_clip_of_every_sample_in_order(shards):
    data = dataset(shards, plan=None, frame_times=True)
    for i in range(len(shards)):
        item = data[i]
        assert item["key"] == shards.key(i)
        assert item["crop"].tolist() == [0, 0, 32, 32]
        assert item["start_time_s"] == pytest.approx((shards.num_frames(i) - 12) // 2 / 25)


def test_batches_stack_clips(shards):
    items = [dataset(shards, frame_times=True)[position] for position in range(3)]
    batch = collate(items, shape=SHAPE)
    assert batch.video.shape == (3, *SHAPE)
    assert batch.video.dtype == torch.uint8
    assert batch.crop.dtype == torch.int32
    assert batch.position.tolist() == [0, 1, 2]
    assert batch.position.dtype == torch.int64
    assert batch.start_time_s.dtype == torch.float64
    assert batch.key == [item["key"] for item in items]
    assert (len(batch), batch.num_given, batch.weight, batch.is_blank) == (3, 3, 1.0, False)
    moved = batch.to("cpu")
    assert isinstance(moved, ClipBatch)
    assert moved.key == batch.key


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    return ShardSet(make_shards(tmp_path_factory.mktemp("damaged"), shard_sizes=(3, 3), damaged=(1, 4), num_frames=30))


def test_damaged_samples_become_bad_clips(damaged):
    data = ClipDataset(damaged, ClipSpec(num_frames=10, stride=3, size=32), plan=None)
    for i in range(6):
        item = data[i]
        if i in (1, 4):
            assert (item.key, item.shard) == (f"clip0000{i}", f"train-00000{i // 3}.tar")
            assert item.reason
        else:
            assert item["key"] == f"clip0000{i}"


def test_bad_clips_are_left_out_of_their_batch(damaged):
    data = ClipDataset(damaged, ClipSpec(num_frames=10, stride=3, size=32), plan=None)
    batch = collate([data[i] for i in range(3)], shape=(10, 32, 32, 3))
    assert batch.key == ["clip00000", "clip00002"]
    assert batch.position.tolist() == [0, 2]
    assert batch.video.shape[0] == batch.crop.shape[0] == 2
    assert [bad.key for bad in batch.bad] == ["clip00001"]
    assert (batch.num_given, batch.weight) == (3, 1.0)


def test_a_batch_without_clips_holds_one_grey_clip_of_weight_zero(damaged):
    data = ClipDataset(damaged, ClipSpec(num_frames=10, stride=3, size=32), plan=None)
    batch = collate([data[1], data[4]], shape=(10, 32, 32, 3))
    assert batch.is_blank
    assert batch.weight == 0.0
    assert batch.video.shape == (1, 10, 32, 32, 3)
    assert batch.crop.tolist() == [[0, 0, 32, 32]]
    assert batch.position.tolist() == [-1]
    assert len(batch.bad) == batch.num_given == 2


def test_verify_notices_a_changed_byte_that_decodes(tmp_path):
    folder = make_shards(tmp_path, shard_sizes=(1,), num_frames=6, audio=False)
    shards = ShardSet(folder)
    data = bytearray((folder / "train-000000.tar").read_bytes())
    at = data.index(shards.read(0, "jpgs")) + shards.member_size(0, "jpgs") - 3  # the last byte before the end marker
    data[at] ^= 1
    (folder / "train-000000.tar").write_bytes(data)
    plain = ClipDataset(ShardSet(folder), CLIP, plan=None, verify=False)
    strict = ClipDataset(ShardSet(folder), CLIP, plan=None, verify=True)
    assert plain[0]["key"] == "clip00000"
    assert "sha256" in strict[0].reason


def test_frames_of_another_size_than_the_recipe_says_are_refused(tmp_path):
    folder = make_shards(tmp_path, shard_sizes=(1,), num_frames=6)
    values = json.loads((folder / "manifest.json").read_text())
    manifest = Manifest.read(folder)
    recipe = type(manifest.recipe).from_dict({**values["recipe"], "size": 48})
    Manifest(recipe=recipe, shards=manifest.shards, num_sources=1, num_quarantined=0, ssl_affect_version="0.1.0").write(
        folder
    )
    with pytest.raises(DecodeError, match="frames are 32x32, the recipe says 48x48"):
        read_clip(ShardSet(folder), 0, np.array([0]))


def test_a_plan_for_other_shards_is_refused(shards):
    with pytest.raises(ConfigError, match="orders 9 samples, 5 are to be read"):
        dataset(shards, plan=EpochPlan([9], seed=0))


def test_a_batch_is_decoded_into_one_memory_and_not_copied(shards):
    data = dataset(shards)
    items = data.__getitems__([2, 3, 4])
    batch = data.collate(items)
    assert batch.video.data_ptr() == items[0]["video"].data_ptr()
    assert torch.equal(batch.video, torch.stack([data[position]["video"] for position in (2, 3, 4)]))
    swapped = data.collate([items[0], items[2], items[1]])
    assert torch.equal(swapped.video, batch.video[[0, 2, 1]])
    assert torch.equal(data.collate(items[1:]).video, batch.video[1:])


def test_bad_clips_leave_no_gap_in_the_memory_of_a_batch(damaged):
    data = ClipDataset(damaged, ClipSpec(num_frames=10, stride=3, size=32), plan=None)
    batch = data.collate(data.__getitems__(list(range(6))))
    good = [position for position in range(6) if position not in (1, 4)]
    assert batch.position.tolist() == good
    assert torch.equal(batch.video, torch.stack([data[position]["video"] for position in good]))


def test_workers_give_the_same_batches_in_shared_memory(shards):
    data = dataset(shards)
    loader = DataLoader(data, batch_sampler=[[0, 1, 2], [3, 4]], num_workers=1, collate_fn=data.collate)
    for batch, positions in zip(loader, ([0, 1, 2], [3, 4]), strict=True):
        assert batch.video.is_shared()
        assert batch.video.untyped_storage().nbytes() == batch.video.numel()
        assert torch.equal(batch.video, torch.stack([data[position]["video"] for position in positions]))
