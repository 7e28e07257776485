"""What a build left out is named beside the parts, and too much of it stops the run."""

import json
from dataclasses import replace

import pytest
from shard_fixture import make_shards

from finetune.parts import make_parts
from finetune.split import SplitSpec
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ProtocolError, ShardError


def quarantine(folder, rows):
    """Writes a quarantine list and counts it in the manifest."""
    manifest = ShardSet(folder).manifest
    replace(manifest, num_quarantined=len(rows)).write(folder)
    text = "".join(json.dumps({"file": file, "stage": "open", "reason": why}) + "\n" for file, why in rows)
    (folder / "quarantine.jsonl").write_text(text)


def mer2023(folder):
    """Twelve clips of MER2023, and one that is quarantined."""

    def facts(number):
        return {"labels": {"clip_id": f"sample_{number:08d}", "expression": "happy", "split": "train"}}

    make_shards(folder, shard_sizes=(12,), num_frames=2, audio=False, facts=facts)
    quarantine(folder, [("train/sample_00000099.mp4", "no face")])
    return folder


def test_quarantined_clips_are_named(tmp_path):
    clips = [f"02-01-03-01-01-01-{actor:02}" for actor in range(1, 25, 2)]

    def facts(number):
        return {"subject": clips[number][-2:], "labels": {"clip_id": clips[number], "expression": "happy"}}

    folder = make_shards(tmp_path / "set", shard_sizes=(12,), num_frames=2, audio=False, facts=facts)
    lost = "Actor_14/02-01-03-01-01-01-14.mp4"
    quarantine(folder, [(lost, "no video stream"), (clips[0] + ".mp4", "second person too small")])
    parts = make_parts(ShardSet(folder), SplitSpec(protocol="ravdess", fold=1, max_missing=1))
    assert "1 clips of ravdess are quarantined and missing: 02-01-03-01-01-01-14" in parts.notes
    with pytest.raises(ProtocolError, match=r"\(1 quarantined: 02-01-03-01-01-01-14\)"):
        make_parts(ShardSet(folder), SplitSpec(protocol="ravdess", fold=1))
    moved = make_parts(ShardSet(mer2023(tmp_path / "mer")), SplitSpec(protocol="mer2023", fold=1, max_missing=1))
    assert any("go by the size of groups: with clips missing" in note for note in moved.notes)
    own = make_parts(ShardSet(folder), SplitSpec(test_share=0.3))
    assert any("2 sources went into the shards only in part or not at all" in note for note in own.notes)
    (folder / "quarantine.jsonl").write_text("{}\n{}\n")
    with pytest.raises(ShardError, match="cannot be read"):
        make_parts(ShardSet(folder), SplitSpec(test_share=0.3))
    (folder / "quarantine.jsonl").unlink()
    with pytest.raises(ShardError, match="2 things could not go into"):
        make_parts(ShardSet(folder), SplitSpec(test_share=0.3))
