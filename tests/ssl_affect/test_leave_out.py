"""Leaving people out of pretraining: nobody of them is read, in any order, and a run goes on with the same rule only."""

import numpy as np
import pytest
from shard_fixture import make_shards

from ssl_affect.data.reader import ClipStream
from ssl_affect.data.samples import LeaveOut, keep_others
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.errors import ConfigError, ProtocolError, ShardError
from ssl_affect.training.ledger import PlanFacts
from ssl_affect.training.ledger_epochs import Epochs
from ssl_affect.types import AudioSpec, ClipSpec

CLIP = ClipSpec(num_frames=4, stride=2, size=32)
SOUND = SoundSettings(spec=AudioSpec(num_frames=32, num_mel_bins=32))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Thirteen clips of three people, s0 to s2 in turn, in folds 1 to 3; the last one stands in no fold."""

    def facts(number):
        return {
            "labels": {"fold": number % 3 + 1 if number < 12 else None},
            "subject": f"s{number % 3}" if number < 12 else "guest",
        }

    return ShardSet(make_shards(tmp_path_factory.mktemp("set"), shard_sizes=(4, 3, 5, 1), facts=facts, num_frames=20))


def stream(shards, kept, **more):
    return ClipStream(
        shards,
        CLIP,
        **{"batch_size": 4, "seed": 5, "kept": kept, "window_shards": 2, "sound": SOUND, "pictures": False, **more},
    )


def test_nobody_who_is_left_out_is_read_and_all_others_once_per_epoch(shards):
    kept = keep_others(shards, LeaveOut(column="fold", values=[2]))
    assert kept.left_out == ("s1",)
    assert kept.samples.tolist() == [0, 2, 3, 5, 6, 8, 9, 11, 12]
    for workers in (0, 1):
        one = stream(shards, kept, batch_size=3, num_workers=workers)
        batches = [batch for batch, _ in zip(one, range(6), strict=False)]
        read = np.concatenate([batch.sample.numpy() for batch in batches])
        for epoch in (read[:9], read[9:]):
            assert sorted(epoch) == kept.samples.tolist()
        assert all(batch.video.numel() == 0 and batch.audio_valid.all() for batch in batches)
    by_subject = keep_others(shards, LeaveOut(column="subject", values=["s1"]))
    assert by_subject.fingerprint == kept.fingerprint


def test_the_ledger_knows_the_order(shards, tmp_path):
    kept = keep_others(shards, LeaveOut(column="subject", values=["s0", "guest"]))
    one = stream(shards, kept)
    plan = PlanFacts(one.identity(), str(shards.folder), shards.shard_sizes, one.samples)
    plan.write(tmp_path)
    again = PlanFacts.read(tmp_path, plan.name)
    assert again.identity["left_out"] == ["guest", "s0"]
    epochs = Epochs(again, 0, None)
    planned = [epochs.sample_at(position) for position in range(12)]
    assert planned == [sample for batch, _ in zip(one, range(3), strict=False) for sample in batch.sample.tolist()]


def test_state_goes_on_with_the_same_rule_only(shards):
    kept, other = (keep_others(shards, LeaveOut(column="fold", values=[fold])) for fold in (1, 2))
    state = stream(shards, kept).state_dict()
    stream(shards, kept).load_state_dict(state)
    with pytest.raises(ShardError, match="the checkpoint was trained with samples="):
        stream(shards, other).load_state_dict(state)
    with pytest.raises(ShardError, match="trained without s0, here nobody is left out"):
        stream(shards, None).load_state_dict(state)
    with pytest.raises(ShardError, match=r"fields \['left_out', 'samples'\] are missing"):
        stream(shards, kept).load_state_dict(stream(shards, None).state_dict())


@pytest.mark.parametrize(
    ("rule", "kind", "message"),
    [
        (
            ("fold", [4]),
            ConfigError,
            r"column 'fold' .* no clip has 4; name values that are there, each once \(1, 2, 3\)",
        ),
        (("speaker", ["s1"]), ConfigError, r"no clip has s1; .*\(none\)"),
        (("fold", []), ConfigError, r"got \[\]"),
        (("fold", [1, 1]), ConfigError, r"got \['1', '1'\]"),
        (("subject", ["s0", "s1", "s2", "guest"]), ConfigError, "are all 13 clips"),
    ],
)
def test_impossible_rules(shards, rule, kind, message):
    with pytest.raises(kind, match=message):
        keep_others(shards, LeaveOut(column=rule[0], values=rule[1]))


def test_rules_that_would_not_keep_people_apart(tmp_path):
    leaky = make_shards(tmp_path / "a", shard_sizes=(4,), num_frames=4, facts=lambda i: {"labels": {"part": i % 2}})
    with pytest.raises(ProtocolError, match=r"1 people stand in clips that are left out and in others \(s0\)"):
        keep_others(ShardSet(leaky), LeaveOut(column="part", values=[1]))
    nameless = make_shards(
        tmp_path / "b", shard_sizes=(4,), num_frames=4, facts=lambda i: {"subject": "x" if i else None}
    )
    with pytest.raises(ProtocolError, match="clips have no subject"):
        keep_others(ShardSet(nameless), LeaveOut(column="subject", values=["x"]))
