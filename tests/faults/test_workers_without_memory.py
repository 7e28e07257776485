import os
import random
import resource
import signal
from itertools import islice

import pytest
import torch
from shard_fixture import make_shards

from ssl_affect.data.reader import ClipStream
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.workers import DataWorkerError
from ssl_affect.types import ClipSpec

pytestmark = pytest.mark.faults

CLIP = ClipSpec(num_frames=16, stride=1, size=160)
SPARE = (1, 2, 4, 6, 8, 12, 16)  # MiB that a worker may still take


def limited(spare_mib):
    """For a worker: so much memory beyond what it has now."""

    def limit(worker_id):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        size = used + spare_mib * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    return limit


@pytest.fixture(scope="module", params=["jpeg", "h264"])
def big(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return ShardSet(make_shards(folder, shard_sizes=(4, 4), size=320, num_frames=24, codec=request.param, audio=False))


def read(shards, *, stop_at_once=False, **arguments):
    one = ClipStream(shards, CLIP, batch_size=2, seed=0, max_bad_fraction=0.0, **arguments)
    one.stop_at_once = stop_at_once
    batches = list(islice(iter(one), 4))
    return batches, one


def test_a_worker_that_runs_out_of_memory_costs_no_clip(big, table):
    whole, _ = read(big)
    tries, lost, corrupt, met = 0, 0, 0, 0
    for spare in SPARE:
        batches, one = read(big, num_workers=1, worker_init=limited(spare))
        met += one.trouble is not None
        lost += len(one.quarantine.bad) + 8 - sum(len(batch) for batch in batches)
        corrupt += sum(not torch.equal(a.video, b.video) for a, b in zip(whole, batches, strict=True))
        tries += 1
    assert met >= 2
    codec = big.recipe.video_codec
    what = f"{met} were out of memory; said, and decoded in the main process"
    table.add(f"out of memory in a worker, {codec}", tries=tries, lost=lost, corrupt=corrupt, what=what)


def test_a_worker_killed_at_any_moment_costs_no_clip(big, table):
    whole, _ = read(big)
    rng, tries, lost, corrupt = random.Random(0), 3, 0, 0
    for _ in range(tries):
        one = ClipStream(big, CLIP, batch_size=2, seed=0, num_workers=2, max_bad_fraction=0.0)
        one.stop_at_once = False
        batches = []
        for number, batch in enumerate(islice(iter(one), 4)):
            batches.append(batch)
            if number == 0:
                os.kill(rng.choice(one._loader._iterator._workers).pid, signal.SIGKILL)
        assert one.trouble is None or "was killed by SIGKILL" in one.trouble
        lost += 8 - sum(len(batch) for batch in batches)
        corrupt += sum(not torch.equal(a.video, b.video) for a, b in zip(whole, batches, strict=True))
    what = "said, and decoded in the main process"
    table.add(f"SIGKILL of a worker, {big.recipe.video_codec}", tries=tries, lost=lost, corrupt=corrupt, what=what)


def test_a_reader_of_its_own_is_told_at_once(big):
    with pytest.raises(DataWorkerError, match=r"ran out of memory|was killed|ended with exit code"):
        read(big, stop_at_once=True, num_workers=1, worker_init=limited(1))
