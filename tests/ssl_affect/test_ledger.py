import json
import random
import shutil
import tracemalloc
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from shard_fixture import make_shards

from ssl_affect.cli import main
from ssl_affect.data.plan import EpochPlan
from ssl_affect.data.reader import ClipStream
from ssl_affect.data.shardset import ShardSet
from ssl_affect.training.ledger import _STEP, Header, LedgerError, LedgerFile, LedgerWriter, PlanFacts, next_attempt
from ssl_affect.training.ledger_check import verify
from ssl_affect.types import ClipSpec

CLIP = ClipSpec(num_frames=2, stride=1, size=32)
GLOBAL_BATCH = 12
SIZES = [(w, b, GLOBAL_BATCH // w // b) for w in (1, 2, 3, 4) for b in (1, 2, 3, 6, 12) if GLOBAL_BATCH % (w * b) == 0]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return ShardSet(make_shards(tmp_path_factory.mktemp("set"), shard_sizes=(6, 5, 7, 1), num_frames=6, audio=False))


class Run:
    """A run as far as its data are concerned: ranks, batches, commits, checkpoints, kills."""

    def __init__(self, folder: Path, shards: ShardSet, **arguments) -> None:
        self.folder, self.shards, self.arguments = folder, shards, arguments
        self.saved = {"step": 0, "state": None, "parent": None}
        self.consumed: list[str] = []  # keys of the lineage, step by step, as far as it is saved

    def live(self, size, steps, *, save_every=2):
        """One start with ranks x batch x accumulated; gives its files."""
        world_size, batch_size, accumulate = size
        streams = [
            ClipStream(
                self.shards, CLIP, batch_size=batch_size, seed=3, world_size=world_size, rank=rank, window_shards=2,
                decoder="simplejpeg", **self.arguments,
            )
            for rank in range(world_size)
        ]  # fmt: skip
        for stream in streams:
            if self.saved["state"] is not None:
                stream.load_state_dict(self.saved["state"])
        facts = PlanFacts(
            streams[0].identity(), str(self.shards.folder), self.shards.shard_sizes, self.arguments.get("samples")
        )
        facts.write(self.folder)
        attempt = next_attempt(self.folder)
        header = Header(
            attempt=attempt, rank=0, world_size=world_size, batch_size=batch_size, accumulate=accumulate, num_workers=0,
            start_step=self.saved["step"], start_position=streams[0].position,
            parent=self.saved["parent"], branched_from=None, plan=facts.name, time=0.0,
        )  # fmt: skip
        writers = [LedgerWriter(self.folder, replace(header, rank=rank)) for rank in range(world_size)]
        batches, unsaved = [iter(stream) for stream in streams], []
        for step in range(header.start_step + 1, header.start_step + 1 + steps):
            for _ in range(accumulate):
                for rank in range(world_size):
                    batch = next(batches[rank])
                    unsaved += batch.key
                    writers[rank].add(batch)
            for rank in range(world_size):
                writers[rank].write(step)
                streams[rank].commit(GLOBAL_BATCH)
            if step % save_every == 0:
                self.saved = {"step": step, "state": streams[0].state_dict(), "parent": (attempt, step)}
                self.consumed, unsaved = self.consumed + unsaved, []
        for writer in writers:
            writer.close()
        return [writer.path for writer in writers]


def cut(rng, paths, run):
    """What a kill leaves of the files: some ranks lack their last step or part of it, if no checkpoint stands for it."""
    for path in paths:
        file = LedgerFile(path)
        last = max((record.step for record in file.records()), default=0)
        if last > run.saved["step"] and rng.random() < 0.7:
            data = path.read_bytes()
            path.write_bytes(data[: len(data) - rng.randrange(1, 40)])


def test_hundreds_of_kills_and_size_changes_lose_and_double_nothing(tmp_path, shards, capsys):
    rng = random.Random(7)
    run, lives, changes, before = Run(tmp_path / "ledger", shards), 200, 0, None
    for _ in range(lives):
        size = rng.choice(SIZES)
        changes += before is not None and size != before
        before = size
        cut(rng, run.live(size, rng.randrange(5), save_every=rng.choice((1, 2, 3))), run)
    run.live((1, 12, 1), 2, save_every=1)
    verdict = verify(tmp_path)
    assert not verdict.findings
    assert (verdict.lost, verdict.doubled, verdict.step) == (0, 0, run.saved["step"])
    assert verdict.epochs == run.saved["step"] * GLOBAL_BATCH // len(shards) > 40
    plan_keys = [shards.key(i) for i in range(len(shards))]
    for epoch in range(verdict.epochs):
        assert sorted(run.consumed[epoch * len(shards) : (epoch + 1) * len(shards)]) == plan_keys
    assert verdict.done_again > 30, "kills past a checkpoint"
    with capsys.disabled():
        print(
            f"\n{lives} starts, {changes} changes of size, {verdict.done_again} steps done again, {verdict.epochs} epochs,"
            f" lost {verdict.lost}, doubled {verdict.doubled}"
        )


def test_bad_samples_and_chosen_samples_are_accounted_for(tmp_path):
    damaged = ShardSet(make_shards(tmp_path / "set", shard_sizes=(6, 9), damaged=(2, 3, 9), audio=False, num_frames=6))
    chosen = np.array([0, 1, 2, 4, 5, 7, 9, 11, 12, 13])
    run = Run(tmp_path / "run" / "ledger", damaged, samples=chosen, max_bad_fraction=1.0)
    for size in ((2, 3, 2), (1, 12, 1), (4, 1, 3)):
        run.live(size, 4, save_every=1)
    verdict = verify(tmp_path / "run")
    assert not verdict.findings
    assert (verdict.epochs, verdict.in_epoch, verdict.num_samples) == (14, 4, 10)
    assert verdict.bad == pytest.approx(2 * 14, abs=2)
    assert sum(row.bad for row in verdict.attempts) == verdict.bad


def edit(path, step, change):
    """Writes a file again with the records of one step changed; ``change`` gives the new one or None."""
    file = LedgerFile(path)
    folder = path.with_suffix("")
    writer = LedgerWriter(folder, file.header)
    for record in file.records():
        record = change(record) if record.step == step else record
        if record is not None:
            writer._append(encode(record))
    writer.close()
    shutil.move(writer.path, path)
    shutil.rmtree(folder)


def encode(record):
    runs = [record.positions[i : i + 1] for i in range(len(record.positions))]
    return b"".join(
        (
            _STEP.pack(b"S", record.step, len(runs), len(record.positions), len(record.bad_positions)),
            record.positions.astype("<i8").tobytes(),
            np.ones(len(runs), "<u4").tobytes(),
            record.samples.astype("<u4").tobytes(),
            record.bad_positions.astype("<i8").tobytes(),
            record.bad_samples.astype("<u4").tobytes(),
        )
    )


@pytest.fixture
def written(tmp_path, shards):
    run = Run(tmp_path / "ledger", shards)
    first = run.live((2, 3, 2), 4, save_every=1)
    run.live((1, 12, 1), 3, save_every=1)
    assert not verify(tmp_path).findings
    return first


def kinds(tmp_path):
    return [(f.kind, f.position, f.step, f.rank) for f in verify(tmp_path).findings]


def test_a_missing_step_of_one_rank_is_a_gap_of_its_clips(tmp_path, written, shards):
    edit(written[1], 2, lambda record: None)
    expected = [12 + place for place in (3, 4, 5, 9, 10, 11)]
    assert kinds(tmp_path) == [("gap", position, 2, 1) for position in expected]
    plan = EpochPlan(shards.shard_sizes, seed=3, window_shards=2)
    assert [f.sample for f in verify(tmp_path).findings] == [plan.sample_at(position) for position in expected]


def test_a_clip_that_was_left_out_and_one_that_was_used_again_are_named(tmp_path, written, shards, capsys):
    def again(record):
        positions, samples = record.positions.copy(), record.samples.copy()
        positions[0], samples[0] = positions[1], samples[1]
        return record._replace(positions=positions, samples=samples)

    edit(written[0], 3, again)
    assert set(kinds(tmp_path)) == {("gap", 24, 3, 0), ("double", 25, 3, 0)}
    assert main(["ledger", "verify", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    (double,) = [f for f in verify(tmp_path).findings if f.kind == "double"]
    assert f"double: position 25, sample {double.sample} {shards.key(double.sample)}, step 3, rank 0" in shown
    assert "lost 1, doubled 1" in shown


def test_another_sample_than_the_plan_has_is_found_without_the_plan_and_with_it(tmp_path, written):
    def swap(record):
        samples = record.samples.copy()
        samples[0] = samples[1]
        return record._replace(samples=samples)

    edit(written[0], 2, swap)
    found = verify(tmp_path).findings
    assert [f.kind for f in found] == ["wrong", "double", "gap"]
    assert found[0].position == 12 == found[2].position


def test_a_start_at_another_position_than_the_checkpoint_says_is_found(tmp_path, shards):
    run = Run(tmp_path / "ledger", shards)
    run.live((2, 3, 2), 4, save_every=1)
    run.saved["state"]["position"] -= 2
    run.live((1, 12, 1), 1, save_every=1)
    assert ("double", 46, 4, -1) in kinds(tmp_path)
    run.saved["state"]["position"] += 5
    run.live((1, 12, 1), 1, save_every=1)
    assert [row[:2] for row in kinds(tmp_path) if row[0] == "gap"][:5] == [("gap", p) for p in range(58, 63)]


def test_every_cut_of_the_last_file_is_tolerated_and_said(tmp_path, written):
    path = tmp_path / "ledger" / "0002-00000.bin"
    data = path.read_bytes()
    steps = set()
    for size in range(0, len(data), 7):
        path.write_bytes(data[:size])
        verdict = verify(tmp_path)
        assert not verdict.findings
        steps.add(verdict.step)
        is_whole = size in (0, *np.cumsum([8 + len(payload) for payload in _payloads(data)]).tolist())
        assert any("incomplete record" in note for note in verdict.notes) != is_whole
    assert steps == {4, 5, 6}


def _payloads(data):
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 8 : at + 8 + size]
        at += 8 + size


def test_damage_inside_is_a_gap_once_a_later_start_builds_on_it(tmp_path, written):
    data = bytearray(written[0].read_bytes())
    data[-5] ^= 1  # in the last step, which the second start went on from
    written[0].write_bytes(data)
    assert {(f.kind, f.step, f.rank) for f in verify(tmp_path).findings} == {("gap", 4, 0)}


def test_a_ledger_of_millions_of_clips_is_verified_in_bounded_memory(tmp_path):
    """The steps are written by hand: reading so many clips takes minutes."""
    sizes = np.full(400, 500)
    plan = EpochPlan(sizes, seed=0, window_shards=8)
    identity = {"seed": 0, "window_shards": 8, "fingerprint": "f" * 16, "recipe_hash": "r"}
    facts = PlanFacts(identity, "nowhere", sizes, None)
    facts.write(tmp_path / "ledger")
    header = Header(
        attempt=1, rank=0, world_size=1, batch_size=4000, accumulate=1, num_workers=0, start_step=0, start_position=0,
        parent=None, branched_from=None, plan=facts.name, time=0.0,
    )  # fmt: skip
    writer = LedgerWriter(tmp_path / "ledger", header)
    orders = [plan.order(epoch) for epoch in range(5)]
    for step in range(1, 251):
        first = (step - 1) * 4000
        samples = orders[first // 200_000][first % 200_000 :][:4000]
        head = (
            _STEP.pack(b"S", step, 1, 4000, 0) + np.array([first], "<i8").tobytes() + np.array([4000], "<u4").tobytes()
        )
        writer._append(head + samples.astype("<u4").tobytes())
    writer.close()
    tracemalloc.start()
    verdict = verify(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (verdict.epochs, verdict.position, len(verdict.findings)) == (5, 1_000_000, 0)
    assert peak < 60e6, "two orders, their counts and a piece of the file; not the run"


def test_the_commands(tmp_path, written, shards, capsys):
    assert main(["ledger", "verify", str(tmp_path), "--shards", str(shards.folder)]) == 0
    assert "complete epochs: 4, each of 19 clips used exactly once; the next one has 8" in capsys.readouterr().out
    assert main(["ledger", "show", str(tmp_path)]) == 0
    assert "3 x 2" in capsys.readouterr().out
    assert main(["ledger", "verify", str(tmp_path), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["lost"], values["doubled"], values["step"], len(values["attempts"])) == (0, 0, 7, 2)
    assert main(["ledger", "verify", str(tmp_path / "nothing")]) == 2
    assert "no ledger" in capsys.readouterr().err
    other = make_shards(tmp_path / "other", shard_sizes=(6, 5, 7, 1), num_frames=6, audio=False, seed=2)
    assert main(["ledger", "verify", str(tmp_path), "--shards", str(other)]) == 2
    assert "give the shards of the run" in capsys.readouterr().err


def test_a_start_of_the_same_number_is_refused(tmp_path, written):
    file = LedgerFile(written[0])
    with pytest.raises(LedgerError, match="cannot be written"):
        LedgerWriter(tmp_path / "ledger", file.header)


def test_the_grey_clip_is_no_clip(tmp_path):
    damaged = ShardSet(make_shards(tmp_path, shard_sizes=(2, 2), damaged=(1,), audio=False, num_frames=6))
    run = Run(tmp_path / "run" / "ledger", damaged, max_bad_fraction=1.0)
    run.live((1, 1, 12), 2, save_every=1)
    verdict = verify(tmp_path / "run")
    assert (verdict.findings, verdict.bad, verdict.epochs) == ([], 6, 6)
    assert all(np.all(r.samples < 4) for r in islice(LedgerFile(tmp_path / "run/ledger/0001-00000.bin").records(), 2))
