from itertools import islice
from multiprocessing import queues

import pytest
import torch
from shard_fixture import make_shards

from ssl_affect.data.reader import ClipStream
from ssl_affect.data.shardset import ShardSet
from ssl_affect.types import ClipSpec


def cannot_send(worker_id):
    def refuse(*_):
        raise MemoryError("no memory to send with")

    queues._ForkingPickler.dumps = refuse


@pytest.mark.timeout(60)
def test_a_worker_that_cannot_send_ends_and_costs_no_clip(tmp_path):
    shards = ShardSet(make_shards(tmp_path / "shards", shard_sizes=(3, 3)))

    def read(**arguments):
        stream = ClipStream(shards, ClipSpec(num_frames=4, stride=2, size=32), batch_size=2, seed=0, **arguments)
        stream.stop_at_once = False
        return list(islice(iter(stream), 3)), stream

    whole, _ = read()
    batches, stream = read(num_workers=1, worker_init=cannot_send)
    assert "ended with exit code 1" in stream.trouble
    assert all(torch.equal(a.video, b.video) for a, b in zip(whole, batches, strict=True))
