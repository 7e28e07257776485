import pickle
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_affect.data.plan import EpochPlan, PositionSampler, SequentialBatches
from ssl_affect.errors import ConfigError

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=9).filter(lambda sizes: sum(sizes) > 0)


@given(SIZES, st.integers(0, 2**63 - 1), st.integers(0, 5), st.integers(1, 10))
def test_every_epoch_has_every_sample_once(sizes, seed, epoch, window):
    plan = EpochPlan(sizes, seed=seed, window_shards=window)
    order = plan.order(epoch)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    assert plan.num_samples == sum(sizes)


def test_order_is_frozen():
    # A change here changes the order of clips of every run that is resumed with a new version.
    plan = EpochPlan([3, 2, 4, 1], seed=5, window_shards=2)
    assert plan.order(0).tolist() == [6, 9, 5, 8, 7, 4, 3, 2, 1, 0]
    assert plan.order(1).tolist() == [1, 4, 2, 3, 0, 8, 7, 9, 6, 5]


def test_orders_differ_between_epochs_and_seeds():
    orders = {tuple(EpochPlan([50, 50], seed=seed).order(epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_a_window_holds_whole_shards_only():
    sizes = [10] * 12
    plan = EpochPlan(sizes, seed=0, window_shards=3)
    shards = plan.order(0) // 10
    windows = [set(shards[start : start + 30].tolist()) for start in range(0, 120, 30)]
    assert all(len(window) == 3 for window in windows)
    assert sorted(shard for window in windows for shard in window) == list(range(12))
    assert len(set(plan.order(0)[:30] // 10)) > 1
    assert np.any(np.diff(shards[:30]) != 0), "samples of a window are mixed"


def test_sample_at_walks_through_the_epochs():
    plan = EpochPlan([4, 5], seed=1)
    expected = np.concatenate([plan.order(epoch) for epoch in range(4)]).tolist()
    assert [plan.sample_at(position) for position in range(36)] == expected
    assert plan.sample_at(2) == expected[2], "going back works"


def test_sample_at_keeps_two_orders_and_a_pickle_none():
    plan = EpochPlan([100], seed=1)
    for epoch in range(6):
        plan.sample_at(100 * epoch)
    assert len(plan._orders) == 2
    copy = pickle.loads(pickle.dumps(plan))
    assert not copy._orders
    assert copy.sample_at(555) == plan.sample_at(555)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shard_sizes": []}, "nothing to order"),
        ({"shard_sizes": [0, 0]}, "nothing to order"),
        ({"shard_sizes": [1], "window_shards": 0}, "window_shards"),
        ({"shard_sizes": [1], "seed": -1}, "seed"),
    ],
)
def test_impossible_plans_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        EpochPlan(**{"seed": 0, **arguments})


def test_negative_positions_are_refused():
    with pytest.raises(ConfigError, match="-1"):
        EpochPlan([3], seed=0).sample_at(-1)


@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 50), st.integers(0, 4))
def test_ranks_share_every_global_batch(world_size, batch_size, start, skipped):
    samplers = [
        PositionSampler(batch_size=batch_size, world_size=world_size, rank=rank, start=start)
        for rank in range(world_size)
    ]
    for sampler in samplers:
        sampler.skip(skipped)
    steps = 5
    positions = [
        position
        for step in zip(*(islice(s, steps) for s in samplers), strict=True)
        for batch in step
        for position in batch
    ]
    first = start + skipped * world_size * batch_size
    assert positions == list(range(first, first + steps * world_size * batch_size))


@settings(max_examples=30)
@given(
    SIZES,
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=5
    ),
)
def test_changing_sizes_loses_and_repeats_nothing(sizes, phases):
    """Runs with other worlds and batch sizes, each killed after some steps, go on at the committed position."""
    plan, position, seen = EpochPlan(sizes, seed=3), 0, []
    for world_size, batch_size, steps, read_ahead in phases:
        samplers = [
            PositionSampler(batch_size=batch_size, world_size=world_size, rank=rank, start=position)
            for rank in range(world_size)
        ]
        batches = [list(islice(sampler, steps + read_ahead)) for sampler in samplers]  # read ahead and lost in the kill
        for step in range(steps):
            seen += [plan.sample_at(p) for rank in range(world_size) for p in batches[rank][step]]
        position += steps * world_size * batch_size
    epochs = len(seen) // plan.num_samples + 1
    uninterrupted = np.concatenate([plan.order(epoch) for epoch in range(epochs)]).tolist()
    assert seen == uninterrupted[: len(seen)]


@given(st.integers(0, 40), st.integers(1, 7), st.integers(1, 5))
def test_sequential_batches_have_every_sample_once(num_samples, batch_size, world_size):
    loaders = [
        SequentialBatches(num_samples, batch_size=batch_size, world_size=world_size, rank=rank)
        for rank in range(world_size)
    ]
    batches = [list(loader) for loader in loaders]
    assert [len(loader) for loader in loaders] == [len(b) for b in batches]
    flat = sorted(sample for rank in batches for batch in rank for sample in batch)
    assert flat == list(range(num_samples))
    assert all(batch == sorted(batch) for rank in batches for batch in rank)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"rank": 2}, {"rank": -1}, {"start": -1}])
def test_impossible_samplers_are_refused(arguments):
    with pytest.raises(ConfigError, match="PositionSampler"):
        PositionSampler(**{"batch_size": 1, "world_size": 2, **arguments})
    if "start" not in arguments:
        with pytest.raises(ConfigError, match="SequentialBatches"):
            SequentialBatches(3, **{"batch_size": 1, "world_size": 2, **arguments})
