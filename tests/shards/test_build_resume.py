"""Whatever happens to a build, running it again gives the bytes of a quiet one."""

import json
import os
import random
import resource
import signal
import time

import pytest
import shard_build
from shard_build import tree, video

from shards.place import WORKSPACE_NAME
from ssl_affect.data.schema import Manifest

COUNT = 24
PIECES = ["--min-seconds", "0.2", "--max-seconds", "0.5"]  # three samples a source: shards end in the middle of one


def build(root, out, *options):
    return shard_build.build(root, out, *PIECES, *options)


def start_build(root, out, *options, **popen):
    return shard_build.start_build(root, out, *PIECES, *options, **popen)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    for number in range(COUNT):
        video(root / f"clip{number}.mp4", shade=number)
    (root / "clip5.mp4").write_bytes(b"broken")
    return root


@pytest.fixture(scope="module")
def reference(corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference") / "set"
    assert build(corpus, out) == 0
    assert len(Manifest.read(out).shards) > 4
    return tree(out)


def interrupt(corpus, out, how, *, when):
    """Starts a build, sends it a signal once ``when(out)`` is true, and returns what it said."""
    process = start_build(corpus, out)
    deadline = time.monotonic() + 120
    while not when(out) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does: the workers get it too
    else:
        process.send_signal(how)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def has_finished_shards(out, count=2):
    journal = out / WORKSPACE_NAME / "journal.jsonl"
    return journal.exists() and journal.read_bytes().count(b"\n") >= count


def check_unfinished(out, reference):
    """Nothing half under a final name: every visible shard and index is that of the finished set."""
    visible = {name: data for name, data in tree(out).items() if not name.startswith(WORKSPACE_NAME)}
    assert "manifest.json" not in visible
    assert {name: data for name, data in visible.items() if reference.get(name) != data} == {}
    return visible


def test_two_workers_give_the_same_bytes(corpus, reference, tmp_path):
    assert build(corpus, tmp_path / "out", "--workers", "2") == 0
    assert tree(tmp_path / "out") == reference


def test_killed_build_goes_on_and_keeps_what_was_finished(corpus, reference, tmp_path, capsys):
    out = tmp_path / "out"
    code, _, _ = interrupt(corpus, out, signal.SIGKILL, when=has_finished_shards)
    assert code == -signal.SIGKILL
    check_unfinished(out, reference)
    journal = (out / WORKSPACE_NAME / "journal.jsonl").read_text().splitlines()
    finished = [out / json.loads(line)["shard"]["name"] for line in journal]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished}

    assert build(corpus, out, "--size", "48") == 2
    assert "recipe size: 32 before, 48 now" in capsys.readouterr().err
    video(corpus / "new.mp4")
    assert build(corpus, out) == 2
    (corpus / "new.mp4").unlink()
    message = capsys.readouterr().err
    assert "sources new: 1 (new.mp4)" in message
    assert "another --out" in message

    assert build(corpus, out) == 0
    assert tree(out) == reference
    assert before == {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in finished}


def test_ctrl_c_ends_with_130_and_a_word_and_the_next_run_goes_on(corpus, reference, tmp_path):
    out = tmp_path / "out"
    code, _, errors = interrupt(
        corpus, out, signal.SIGINT, when=lambda out: any((out / WORKSPACE_NAME / "staged").glob("*.stage"))
    )
    assert code == 130
    assert "the same command goes on where it stopped" in errors
    assert "Traceback" not in errors
    check_unfinished(out, reference)
    assert build(corpus, out) == 0
    assert tree(out) == reference


@pytest.mark.slow
def test_a_full_disk_blames_no_source_and_loses_nothing(corpus, reference, tmp_path):
    out = tmp_path / "out"

    def limit():  # every file larger than this fails to be written, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    process = start_build(corpus, out, preexec_fn=limit)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert build(corpus, out) == 0
    assert tree(out) == reference


def test_finished_build_is_left_alone_and_another_one_is_refused(corpus, reference, tmp_path, capsys):
    out = tmp_path / "out"
    assert build(corpus, out) == 0
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert build(corpus, out) == 0
    captured = capsys.readouterr()
    assert "nothing to do" in captured.err
    assert f"{COUNT} sources -> {3 * (COUNT - 1)} samples" in captured.out
    assert times == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    for options, words in (
        (("--fps", "10"), "fps 25.0 there, 10.0 now"),
        (("--shard-bytes", "50K"), "--shard-bytes"),
    ):
        assert build(corpus, out, *options) == 2
        assert words in capsys.readouterr().err
    assert tree(out) == reference


@pytest.mark.parametrize("leftover", ["workspace without plan", "workspace beside manifest"])
def test_a_removal_of_the_workspace_that_was_cut_short_does_no_harm(corpus, reference, tmp_path, leftover):
    out = tmp_path / "out"
    staged = out / WORKSPACE_NAME / "staged"
    if leftover == "workspace beside manifest":
        assert build(corpus, out) == 0
    staged.mkdir(parents=True)
    (staged / "00000000.stage").write_bytes(b"of another build")
    assert build(corpus, out) == 0
    assert tree(out) == reference


@pytest.mark.slow
def test_two_builds_at_once_in_one_folder_are_refused(corpus, reference, tmp_path, capsys):
    out = tmp_path / "out"
    process = start_build(corpus, out)
    while not (out / WORKSPACE_NAME / "plan.json").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    try:
        assert build(corpus, out) == 2
        assert "another build is writing here" in capsys.readouterr().err
    finally:
        process.send_signal(signal.SIGCONT)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert tree(out) == reference


@pytest.mark.slow
def test_a_build_that_is_killed_again_and_again_arrives_at_the_same_bytes(corpus, reference, tmp_path):
    out = tmp_path / "out"
    rng, in_the_middle = random.Random(0), 0
    for _ in range(12):
        process = start_build(corpus, out, "--workers", "2")
        delay = rng.uniform(0, 1.5)
        while not (out / WORKSPACE_NAME).exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(delay)
        process.kill()
        process.communicate()
        if (out / "manifest.json").exists():
            break
        check_unfinished(out, reference)
        in_the_middle += any((out / WORKSPACE_NAME / "staged").glob("*.stage")) or has_finished_shards(out, 1)
    assert in_the_middle
    assert build(corpus, out) == 0
    assert tree(out) == reference
