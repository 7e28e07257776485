"""Memory that is used again never shows: batches stay what they were, whoever keeps them for how long."""

from itertools import islice

import pytest
import torch
from shard_fixture import make_shards

from ssl_affect.data.batch import ClipBatch
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.slabs import Slabs
from ssl_affect.types import ClipSpec

CLIP = ClipSpec(num_frames=4, stride=2, size=32)
BYTES = 64


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return ShardSet(make_shards(tmp_path_factory.mktemp("set"), shard_sizes=(6, 6), damaged=(2, 3, 9), audio=False))


def stream(shards, num_workers, **arguments):
    return ClipStream(shards, CLIP, batch_size=3, seed=5, num_workers=num_workers, max_bad_fraction=1.0, **arguments)


def batch_in(slab, storage) -> ClipBatch:
    video = torch.empty(0, dtype=torch.uint8).set_(storage).view(1, 1, 4, -1, 1)
    return ClipBatch(video, torch.zeros(1, 4), ["a"], torch.zeros(1), None, [], 1, slab=slab)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_that_are_kept_stay_what_they_were(shards, num_workers, monkeypatch):
    seen = []
    empty = Slabs.empty

    def noting(self, batch):
        seen.append((batch.slab, batch.video.untyped_storage().data_ptr()))
        return empty(self, batch)

    monkeypatch.setattr(Slabs, "empty", noting)
    expected = list(islice(iter(stream(shards, 0)), 24))
    found = list(islice(iter(stream(shards, num_workers)), 24))
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one.video, other.video)
        assert one.key == other.key
        assert other.slab is None
        assert other.bad or not other.video.is_shared()  # around a bad clip the good ones were copied
    in_slabs = {where for where in seen if where[0] is not None}
    assert 2 * len(in_slabs) < len([where for where in seen if where[0] is not None])  # used again, in the same place
    assert {bool(batch.bad) for batch in found} == {True, False}


@pytest.mark.timeout(120)
def test_an_iteration_that_was_left_costs_nothing_but_time(shards):
    one = stream(shards, 2, prefetch_factor=3)
    first = next(iter(one)).video.clone()
    for _ in range(3):
        again = [batch.video for batch in islice(iter(one), 5)]
        assert torch.equal(again[0], first)
    expected = [batch.video for batch in islice(iter(stream(shards, 0)), 5)]
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


def test_slabs_are_taken_given_back_and_replaced_by_fresh_memory():
    slabs = Slabs(2, 2)
    (first, memory), (second, _), (none, fresh) = (slabs.take(1, BYTES) for _ in range(3))
    assert (first, second, none) == ((1, 0), (1, 1), None)
    assert fresh.nbytes() == BYTES
    assert slabs.take(0, BYTES)[0] == (0, 0)
    slabs.give_back(first)
    again, same = slabs.take(1, BYTES)
    assert again == first
    assert same.data_ptr() == memory.data_ptr()
    slabs.give_back(first)
    assert slabs.take(1, 4 * BYTES)[1].nbytes() == 4 * BYTES


def test_frames_leave_a_slab_before_it_is_free():
    slabs = Slabs(1, 1)
    slab, storage = slabs.take(0, BYTES)
    batch = batch_in(slab, storage)
    batch.video.fill_(7)
    own = slabs.empty(batch)
    assert slabs.take(0, BYTES)[1].data_ptr() == storage.data_ptr()
    batch.video.fill_(9)
    assert (own.video == 7).all()
    assert slabs.empty(own) is own


def test_frames_in_page_locked_memory_are_not_copied_again():
    slabs = Slabs(1, 1)
    slab, _ = slabs.take(0, BYTES)
    copied = batch_in(slab, torch.zeros(BYTES, dtype=torch.uint8).untyped_storage())
    assert slabs.empty(copied).video is copied.video
    assert slabs.take(0, BYTES)[0] == slab
