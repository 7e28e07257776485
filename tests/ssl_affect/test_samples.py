"""The facts of all samples at once, and the quarantine list beside them."""

import json
from dataclasses import replace

import pytest
from shard_fixture import make_shards

from ssl_affect.data.samples import read_quarantined, read_samples
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ShardError


def test_samples_are_the_facts_of_the_shards(tmp_path):
    def facts(number):
        return {"labels": {"valence": [0.5 * number, None]}, "track": number, "start_s": 1.5}

    shards = ShardSet(make_shards(tmp_path, shard_sizes=(2, 3), num_frames=2, audio=False, facts=facts))
    samples = read_samples(shards)
    assert [one.key for one in samples] == [shards.key(i) for i in range(5)]
    assert [(one.subject, one.track, one.piece, one.start_s, one.num_frames) for one in samples] == [
        (f"s{i % 3}", i, 0, 1.5, 2) for i in range(5)
    ]
    assert samples[3].labels == {"valence": [1.5, None]}
    assert samples[4].source == "videos/clip00004.mp4"


def test_the_quarantine_list_is_read_with_what_the_manifest_says(tmp_path):
    folder = make_shards(tmp_path, shard_sizes=(1,), num_frames=2, audio=False)
    assert read_quarantined(ShardSet(folder)) == []
    replace(ShardSet(folder).manifest, num_quarantined=2).write(folder)
    path = folder / "quarantine.jsonl"
    with pytest.raises(ShardError, match="2 things could not go into these shards"):
        read_quarantined(ShardSet(folder))
    row = {"file": "a\u2028b.mp4", "stage": "open", "reason": "no video", "track": None}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n")
    with pytest.raises(ShardError, match="1 lines, the manifest says 2"):
        read_quarantined(ShardSet(folder))
    path.write_text((json.dumps(row, ensure_ascii=False) + "\n") * 2)
    assert read_quarantined(ShardSet(folder)) == [("a\u2028b.mp4", "no video")] * 2
