import logging
import os
import shutil

import pytest
from pretrain_runs import steps, train
from shard_fixture import make_shards

from ssl_affect.data.schema import Manifest
from ssl_affect.errors import ShardError
from ssl_affect.files import sha256_file
from ssl_affect.training.run import check_fits
from ssl_affect.training.unchanged import check_shards, note_shards


@pytest.fixture
def begun(tmp_path):
    folder, run = make_shards(tmp_path / "shards"), tmp_path / "run"
    note_shards(run, folder, Manifest.read(folder))
    return run, folder, folder / "train-000001.tar"


def flip(path, *, keep_time=False):
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_changed_shard_of_equal_size_is_refused_with_both_hashes(begun):
    run, folder, path = begun
    before = sha256_file(path)
    flip(path)
    with pytest.raises(ShardError) as error:
        check_shards(run, folder, Manifest.read(folder))
    assert f"train-000001.tar: sha256 {before} before, {sha256_file(path)} now" in str(error.value)
    assert "bytes as before" in str(error.value)
    assert "put them back" in str(error.value)


def test_touched_and_moved_shards_pass_and_are_hashed_once(begun, caplog, tmp_path):
    caplog.set_level(logging.INFO)
    run, folder, path = begun
    path.touch()
    check_shards(run, folder, Manifest.read(folder))
    assert "hashes are as before" in caplog.text
    flip(path, keep_time=True)  # a change that nobody can see without reading: it shows that nothing is read
    check_shards(run, folder, Manifest.read(folder))
    flip(path)
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    check_shards(run, moved, Manifest.read(moved))


@pytest.mark.slow
def test_a_run_refuses_shards_that_were_changed_built_again_cut_or_removed(tmp_path):
    """As the commands meet it; nothing of the run is touched."""
    folder, run = make_shards(tmp_path / "shards"), tmp_path / "run"
    train(run, folder, *steps(4), "--trainer.max_steps=2")
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    before = {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}

    path = folder / "train-000000.tar"
    first = sha256_file(path)
    flip(path)
    with pytest.raises(ShardError, match=f"train-000000.tar: sha256 {first} before, {sha256_file(path)} now"):
        train(run, folder, *steps(4))
    with open(path, "ab") as stream:
        stream.write(bytes(512))
    with pytest.raises(ShardError, match=rf"expected \d+ bytes, found \d+ \(sha256 {first} expected, \w+ found\)"):
        train(run, folder, *steps(4))
    path.unlink()
    with pytest.raises(ShardError, match=rf"No such file.*with sha256 {first}"):
        train(run, folder, *steps(4))

    shutil.rmtree(folder)
    make_shards(folder, shard_sizes=(4, 3, 5, 2))  # one more shard
    with pytest.raises(ShardError, match=r"train-000003.tar: new, sha256 \w{64}"):
        train(run, folder, *steps(4))
    shutil.rmtree(folder)
    make_shards(folder, shard_sizes=(4, 3))
    with pytest.raises(ShardError, match=r"train-000002.tar: gone; its sha256 was \w{64}"):
        train(run, folder, *steps(4))

    assert {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()} == before
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    assert train(run, folder, *steps(4)) == 0


def test_another_global_batch_is_refused_with_what_to_say(tmp_path, shards):
    run = tmp_path / "run"
    train(run, shards, *steps(4), "--data.batch_size=12", "--trainer.max_steps=2")

    class Data:
        batch_size = 4

    for world_size, advice in (
        (1, "--data.batch_size=4 --trainer.accumulate_grad_batches=3"),
        (2, "--data.batch_size=3 --trainer.accumulate_grad_batches=2"),
        (5, "5 devices cannot share 12 clips evenly"),
    ):
        with pytest.raises(Exception, match=advice) as error:
            check_fits(
                run / "checkpoints" / "step-00000002.ckpt", description={}, data=Data(), global_batch=4 * world_size,
                allow_recipe_mismatch=False, world_size=world_size,
            )  # fmt: skip
        assert "trained with a global batch of 12" in str(error.value)
