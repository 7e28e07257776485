import hashlib
import json
import tarfile

import pytest
import webdataset

from shards.staging import QuarantineRecord, StagedSample, StagedSource, StageWriter, count_stages, read_quarantine
from shards.writer import Journal, JournalLine, ShardWriter, stored_bytes, write_quarantine
from ssl_affect.data.schema import ShardIndex
from ssl_affect.errors import ShardError


def make_sample(number, size=700):
    members = {"flac": bytes([number]) * 37, "mp4": bytes([number]) * size, "json": b'{"n": %d}' % number}
    return StagedSample(f"clip-{number}-p0", 25, 1.04, members)


def write_shard(folder, count=4):
    (folder / "work").mkdir(parents=True)
    writer = ShardWriter(folder, folder / "work", "train-000000.tar")
    samples = [make_sample(number) for number in range(count)]
    for sample in samples:
        writer.add(sample)
    return writer.finish(), samples


def test_shard_index_and_entry_tell_the_same_story(tmp_path):
    entry, samples = write_shard(tmp_path)
    data = (tmp_path / entry.name).read_bytes()
    index_data = (tmp_path / "train-000000.idx").read_bytes()
    assert entry.sha256 == hashlib.sha256(data).hexdigest()
    assert entry.index_sha256 == hashlib.sha256(index_data).hexdigest()
    assert (entry.num_samples, entry.num_frames, entry.num_bytes) == (4, 100, len(data))
    assert entry.seconds == pytest.approx(4.16)
    index = ShardIndex.read(tmp_path / "train-000000.idx")
    assert index.shard == entry.name
    for item, sample in zip(index.samples, samples, strict=True):
        assert (item.key, item.num_frames) == (sample.key, sample.num_frames)
        for extension, (offset, size) in item.members.items():
            assert data[offset : offset + size] == sample.members[extension]
    assert not list((tmp_path / "work").iterdir())


def test_shards_are_plain_ustar_without_a_trace_of_when_and_by_whom(tmp_path):
    one, _ = write_shard(tmp_path / "one")
    two, _ = write_shard(tmp_path / "two")
    assert (tmp_path / "one" / one.name).read_bytes() == (tmp_path / "two" / two.name).read_bytes()
    with tarfile.open(tmp_path / "one" / one.name) as tar:
        members = tar.getmembers()
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert (tmp_path / "one" / one.name).read_bytes()[257:265] == b"ustar\x0000"


def test_webdataset_reads_a_shard(tmp_path):
    entry, samples = write_shard(tmp_path)
    read = list(webdataset.WebDataset(str(tmp_path / entry.name), shardshuffle=False))
    assert [(item["__key__"], item["mp4"]) for item in read] == [(item.key, item.members["mp4"]) for item in samples]


def test_stored_bytes_is_what_a_sample_adds_to_the_tar(tmp_path):
    sizes = []
    for count in (10, 11):
        (tmp_path / str(count)).mkdir()
        writer = ShardWriter(tmp_path, tmp_path / str(count), "x.tar")
        for number in range(count):
            writer.add(make_sample(number, size=20_000))
        sizes.append(writer.finish().num_bytes)
    assert abs(sizes[1] - sizes[0] - stored_bytes(make_sample(0, size=20_000))) < 10_240  # tar pads to records of 10240


def test_abandoned_shard_leaves_nothing(tmp_path):
    (tmp_path / "work").mkdir()
    writer = ShardWriter(tmp_path, tmp_path / "work", "train-000000.tar")
    writer.add(make_sample(1))
    writer.abandon()
    assert [path.name for path in tmp_path.rglob("*")] == ["work"]


def test_journal_survives_a_torn_last_line_and_refuses_other_damage(tmp_path):
    entry, _ = write_shard(tmp_path)
    record = QuarantineRecord(file="a\u2028b.mp4", stage="open", reason="no")
    line = JournalLine(shard=entry, next_source=3, next_sample=1, records=[record])
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(line)
    journal.append(line)
    whole = path.read_bytes()
    for cut in (1, 20, len(whole) // 2 - 1):
        path.write_bytes(whole[:-cut])
        again = Journal(path)
        assert again.lines == [line]
        again.append(line)
        assert path.read_bytes() == whole
    path.write_bytes(b"garbage\n" + whole)
    with pytest.raises(ShardError, match="build again"):
        Journal(path)


def test_staged_source_reads_back_and_notices_damage(tmp_path):
    record = QuarantineRecord(file="x.mp4", stage="track", reason="short", track=2, start_s=1.5, duration_s=0.2)
    path = tmp_path / "a.stage"
    with StageWriter(path) as writer:
        for number in (1, 2, 3):
            writer.add(make_sample(number))
        writer.records.append(record)
        assert not path.exists()
    assert (writer.num_samples, writer.seconds) == (3, pytest.approx(3.12))
    staged = StagedSource(path)
    assert list(staged.samples()) == [make_sample(number) for number in (1, 2, 3)]
    assert list(staged.samples(2)) == [make_sample(3)]
    assert staged.records == [record]
    data = path.read_bytes()
    for broken in (data[:-1], data + b"x", data[1:], b"STG1", b""):
        path.write_bytes(broken)
        with pytest.raises(ShardError, match="damaged"):
            StagedSource(path)


def test_a_source_that_fails_half_way_leaves_no_file(tmp_path):
    def fail():
        with StageWriter(tmp_path / "a.stage") as writer:
            writer.add(make_sample(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


def test_quarantine_is_one_json_object_a_line_in_order(tmp_path):
    records = [
        QuarantineRecord(file=name, stage=stage, reason="weil\nso")
        for name, stage in (("b", "open"), ("a\u2028", "track"), ("c", "open"))
    ]
    with open(tmp_path / "q.jsonl", "wb") as stream:
        write_quarantine(stream, records)
    with open(tmp_path / "q.jsonl", encoding="utf-8", newline="\n") as stream:
        assert [json.loads(line)["file"] for line in stream] == ["b", "a\u2028", "c"]
    assert read_quarantine(tmp_path / "q.jsonl") == records
    assert count_stages(records) == {"open": 2, "track": 1}
    (tmp_path / "q.jsonl").write_text("{}\n")
    with pytest.raises(ShardError):
        read_quarantine(tmp_path / "q.jsonl")
