import json
from itertools import islice

import numpy as np
import pytest
import torch
from shard_fixture import make_shards

from ssl_affect.data.clips import ClipDataset
from ssl_affect.data.plan import EpochPlan
from ssl_affect.data.reader import ClipStream, Quarantine, evaluation_loader, view_loader
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError, ShardError
from ssl_affect.types import ClipSpec

CLIP = ClipSpec(num_frames=4, stride=2, size=32)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return ShardSet(make_shards(tmp_path_factory.mktemp("set"), shard_sizes=(4, 3, 5, 1)))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    folder = make_shards(tmp_path_factory.mktemp("bad"), shard_sizes=(6, 6), damaged=(2, 3, 9), audio=False)
    return ShardSet(folder)


def stream(shards, **arguments):
    return ClipStream(shards, CLIP, **{"batch_size": 3, "seed": 5, **arguments})


def step(streams):
    """One training step of all ranks: (keys, positions) in the order of the global batch."""
    batches = [next(iterator) for _, iterator in streams]
    for rank, _ in streams:
        rank.commit()
    return [key for b in batches for key in b.key], [p for b in batches for p in b.position.tolist()]


def start(shards, world_size, num_workers, batch_size, state):
    streams = []
    for rank in range(world_size):
        one = stream(shards, batch_size=batch_size, world_size=world_size, rank=rank, num_workers=num_workers)
        if state is not None:
            one.load_state_dict(state)
        streams.append((one, iter(one)))
    return streams


def test_workers_and_ranks_do_not_change_the_clips(shards):
    reference = [next(it) for it in [iter(stream(shards, batch_size=12))] for _ in range(2)]
    video = torch.cat([batch.video for batch in reference])
    crop = torch.cat([batch.crop for batch in reference])
    for world_size, num_workers in ((1, 2), (2, 0), (3, 1)):
        streams = start(shards, world_size, num_workers, 12 // world_size, None)
        batches = [next(iterator) for _ in range(2) for _, iterator in streams]
        assert torch.equal(torch.cat([b.video for b in batches]), video)
        assert torch.equal(torch.cat([b.crop for b in batches]), crop)
        assert [key for b in batches for key in b.key] == [key for b in reference for key in b.key]


def test_kills_and_other_sizes_lose_and_repeat_nothing(shards):
    """Each phase is a new job with other ranks, workers and batch sizes that goes on from the last state."""
    keys, positions, state = [], [], None
    for world_size, num_workers, batch_size, steps in [(1, 2, 4, 3), (3, 0, 2, 4), (2, 1, 3, 2), (1, 0, 5, 3)]:
        streams = start(shards, world_size, num_workers, batch_size, state)
        for _ in range(steps):
            new_keys, new_positions = step(streams)
            keys += new_keys
            positions += new_positions
        for _, iterator in streams:
            next(iterator)  # handed out, but the job dies before the step is committed
        states = [one.state_dict() for one, _ in streams]
        assert all(other == states[0] for other in states), "Lightning keeps the state of rank 0 only"
        state = json.loads(json.dumps(states[0]))
    assert positions == list(range(len(positions)))
    plan = EpochPlan(shards.shard_sizes, seed=5)
    expected = [shards.key(plan.sample_at(position)) for position in range(len(positions))]
    assert keys == expected
    assert len(keys) > 3 * len(shards)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_second_iteration_starts_at_the_committed_position(shards, num_workers):
    one = stream(shards, num_workers=num_workers)
    first = [batch.position.tolist() for batch in islice(iter(one), 3)]
    one.commit()
    second = [batch.position.tolist() for batch in islice(iter(one), 2)]
    assert first == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert second == [[3, 4, 5], [6, 7, 8]]


def test_state_loaded_after_iter_but_before_the_first_batch_counts(shards):
    one, other = stream(shards), stream(shards)
    for _ in islice(iter(other), 2):
        other.commit()
    iterator = iter(one)
    one.load_state_dict(other.state_dict())
    assert next(iterator).position.tolist() == [6, 7, 8]


def test_committing_more_than_was_handed_out_is_refused(shards):
    one = stream(shards)
    with pytest.raises(ConfigError, match="commit"):
        one.commit()
    next(iter(one))
    one.commit(3)
    with pytest.raises(ConfigError, match="position 3 is committed"):
        one.commit(1)
    assert one.position == 3
    assert one.epoch == pytest.approx(3 / 13)


def test_a_state_of_another_shard_set_is_refused_with_both_hashes(shards, tmp_path):
    other = ShardSet(make_shards(tmp_path, shard_sizes=(4, 3, 5, 1), seed=1))
    state = stream(other).state_dict()
    with pytest.raises(ShardError, match=f"fingerprint={other.fingerprint}.*fingerprint={shards.fingerprint}"):
        stream(shards).load_state_dict(state)


@pytest.mark.parametrize(("name", "value"), [("seed", 6), ("window_shards", 2), ("recipe_hash", "0" * 16)])
def test_a_state_of_another_order_is_refused(shards, name, value):
    state = {**stream(shards).state_dict(), name: value}
    with pytest.raises(ShardError, match=f"trained with {name}={value}"):
        stream(shards).load_state_dict(state)
    with pytest.raises(ShardError, match=r"fields \['position'\] are missing"):
        stream(shards).load_state_dict({k: v for k, v in state.items() if k != "position"})


def test_the_stream_has_no_length_and_never_ends(shards):
    one = stream(shards)
    assert not hasattr(one, "__len__")
    count = sum(1 for _ in islice(iter(one), 15))
    assert count == 15 > 3 * len(shards) / 3


def test_reading_leaves_the_global_random_state_alone(shards):
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for num_workers in (0, 1):
        next(iter(stream(shards, num_workers=num_workers)))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_lightning_saves_and_restores_the_position(shards, tmp_path):
    pl = pytest.importorskip("pytorch_lightning")
    seen: list[list[int]] = []

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, _):
            seen.append(batch.position.tolist())
            return self.layer(batch.video.float().mean().view(1, 1)).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    class Commit(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.train_dataloader.commit()

    def fit(max_steps, checkpoint=None, num_workers=0):
        saver = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True, save_top_k=1)
        pl.Trainer(
            max_steps=max_steps,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[Commit(), saver],
        ).fit(Model(), stream(shards, num_workers=num_workers), ckpt_path=checkpoint, weights_only=False)

    fit(3)
    fit(7, tmp_path / "last.ckpt", num_workers=1)
    assert [p for batch in seen for p in batch] == list(range(21))


def test_bad_clips_are_written_down_once_and_counted(damaged, tmp_path):
    path = tmp_path / "logs" / "bad.jsonl"
    one = stream(damaged, batch_size=4, quarantine=path, max_bad_fraction=0.5)
    keys = [key for batch in islice(iter(one), 6) for key in batch.key]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(row["key"] for row in rows) == ["clip00002", "clip00003", "clip00009"]
    assert {row["shard"] for row in rows} == {"train-000000.tar", "train-000001.tar"}
    assert all(set(row) == {"key", "shard", "reason"} and row["reason"] for row in rows)
    assert len(keys) == 2 * 9, "the good ones are all there, twice"
    assert one.quarantine.num_seen == 24


@pytest.mark.parametrize("num_workers", [0, 1])
def test_too_many_bad_clips_stop_the_run_with_the_list(damaged, num_workers):
    one = stream(damaged, batch_size=4, num_workers=num_workers)
    with pytest.raises(ShardError, match=r"(?s)2 bad samples among .*max_bad_fraction=0.001.*clip0000") as caught:
        for _ in islice(iter(one), 3):
            pass
    assert len([line for line in str(caught.value).splitlines() if line.startswith("  train-")]) == 2


def test_a_fraction_of_zero_stops_at_the_first_bad_clip(damaged):
    with pytest.raises(ShardError, match="1 bad samples"):
        list(islice(iter(stream(damaged, batch_size=1, max_bad_fraction=0.0)), 12))
    with pytest.raises(ConfigError, match="max_bad_fraction"):
        Quarantine(None, max_fraction=1.5, num_samples=1)


def test_a_batch_that_lost_all_clips_still_makes_a_step(damaged):
    one = stream(damaged, batch_size=1, max_bad_fraction=1.0)
    batches = list(islice(iter(one), 12))
    blank = [batch for batch in batches if batch.is_blank]
    assert len(blank) == 3
    assert all(batch.video.shape == batches[0].video.shape for batch in batches)
    weight = torch.ones(1, requires_grad=True)
    loss = (weight * blank[0].video.float().mean()) * blank[0].weight
    loss.backward()
    assert weight.grad.item() == 0.0


def test_a_missing_shard_stops_the_run_even_from_a_worker(tmp_path):
    folder = make_shards(tmp_path, shard_sizes=(4,), num_frames=10)
    for num_workers in (0, 1):
        opened = ShardSet(folder)
        (folder / "train-000000.tar").rename(folder / "moved.tar")
        with pytest.raises(ShardError, match=r"train-000000\.tar: No such file"):
            next(iter(stream(opened, num_workers=num_workers)))
        (folder / "moved.tar").rename(folder / "train-000000.tar")


@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 4), (2, 3), (5, 5)])
def test_evaluation_reads_every_sample_once(shards, world_size, batch_size):
    keys, order = [], []
    for rank in range(world_size):
        loader = evaluation_loader(shards, CLIP, batch_size=batch_size, world_size=world_size, rank=rank)
        batches = list(loader)
        assert len(batches) == len(loader)
        keys += [key for batch in batches for key in batch.key]
        order.append([p for batch in batches for p in batch.position.tolist()])
    assert sorted(keys) == [shards.key(i) for i in range(len(shards))]
    assert all(positions == sorted(positions) for positions in order)


# --------------------------------------------------------------------------------------------------------------------
# Some of the samples, for supervised training


def test_a_stream_of_some_samples_visits_each_once_per_epoch(shards):
    chosen = np.array([1, 4, 5, 11, 12])
    epochs = [batch.sample.tolist() for batch in islice(iter(stream(shards, samples=chosen, batch_size=5)), 6)]
    assert all(sorted(epoch) == chosen.tolist() for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_batches_carry_the_labels_of_their_samples(shards):
    labels = [{"number": i} for i in range(len(shards))]
    for samples in (None, np.array([3, 7, 8])):
        for batch in islice(iter(stream(shards, samples=samples, labels=labels)), 5):
            assert [row["number"] for row in batch.labels] == batch.sample.tolist()
            assert [shards.key(i) for i in batch.sample.tolist()] == batch.key


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "at least one sample"),
        ([[1, 2]], "at least one sample"),
        ([0, 13], r"from 0 to 13 .* they must lie in \[0, 13\)"),
        ([-1, 2], r"from -1 to 2"),
        ([1, 1, 2], "1 of 3 stand there twice"),
    ],
)
def test_samples_that_cannot_be_chosen_are_refused(shards, samples, message):
    with pytest.raises(ConfigError, match=message):
        stream(shards, samples=samples)
    with pytest.raises(ConfigError, match=message):
        view_loader(shards, CLIP, samples=samples, views=1, batch_size=2)


def test_a_state_of_all_samples_and_one_of_some_do_not_mix(shards):
    everything, some = stream(shards), stream(shards, samples=np.arange(13), window_shards=1)
    assert "samples" not in everything.state_dict(), "states of pretraining stay as they were"
    with pytest.raises(ShardError, match=r"fields \['samples'\] are missing"):
        some.load_state_dict(everything.state_dict())
    with pytest.raises(ShardError, match="window_shards=1"):
        everything.load_state_dict(some.state_dict())


def test_an_evaluation_is_not_augmented(shards):
    with pytest.raises(ConfigError, match="an evaluation sees clips as they are"):
        ClipDataset(shards, CLIP, plan=None, augment=lambda frames, draws: None)
