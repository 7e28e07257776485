import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ssl_affect.training.watchdog import Beat, Watchdog, path_of, process_state, read_beat, write_beat

HERE = {"start": "a", "host": "elsewhere", "pid": 1}


def watchdog(
    folder, *, look=lambda: (3, 4, "other"), end=lambda verdict, speaks: None, rank=0, size=2, hang=4.0, **more
):
    return Watchdog(folder, start="a", rank=rank, world_size=size, hang_timeout_s=hang, look=look, end=end, **more)


def seen(dog: Watchdog, *beats: Beat) -> str:
    for beat in beats:
        write_beat(dog.folder, beat)
    dog._read(time.monotonic())
    return dog.judge()


def test_a_beat_survives_its_file_and_belongs_to_one_start(tmp_path):
    beat = Beat(**HERE, rank=3, step=7, batches=8, reading=True, still_s=1.5, where=("a.py:1 f", "b.py:2 g"))
    write_beat(tmp_path, beat)
    assert read_beat(tmp_path, 3, "a") == beat
    assert read_beat(tmp_path, 3, "another start") is None
    assert read_beat(tmp_path, 4, "a") is None
    write_beat(tmp_path, Beat(**HERE, rank=3, where=("x" * 5000,), verdict="lost"))
    short = read_beat(tmp_path, 3, "a")
    assert short is not None
    assert (short.verdict, short.where) == ("lost", ())
    path_of(tmp_path, 3).write_text('{"start": "a", "ra')
    assert read_beat(tmp_path, 3, "a") is None


@pytest.mark.parametrize(
    ("others", "named"),
    [
        ([dict(batches=4, still_s=1.0)], None),
        ([dict(batches=4, still_s=99.0, done=True)], None),  # it has ended its training
        ([dict(batches=3, still_s=99.0)], "rank 1 .* at work after step 2"),  # behind this one
        ([dict(batches=3, still_s=1.0)], None),  # behind, but it moves: it draws a picture, say
        ([dict(batches=3, still_s=99.0, reading=True)], "rank 1 .* waiting for its next batch after step 2"),
        ([dict(batches=5, still_s=99.0)], None),  # waits for this one, which moves
        ([dict(batches=3, still_s=99.0), dict(batches=3, still_s=0.0)], None),
        (
            [
                dict(batches=3, still_s=99.0, where=("torch/distributed/c.py:1 all_gather",)),
                dict(batches=3, still_s=99.0, where=("pretrain/data.py:88 held_out",)),
            ],
            "rank 2 .* at pretrain/data.py:88 held_out",
        ),
    ],
)
def test_who_stands_still_is_named_and_who_waits_for_it_is_not(tmp_path, others, named):
    dog = watchdog(tmp_path, size=len(others) + 1)
    dog.beat = Beat(**HERE, rank=0, step=3, batches=4)
    verdict = seen(dog, *(Beat(**HERE, rank=rank + 1, step=2, **values) for rank, values in enumerate(others)))
    if named is None:
        assert verdict == ""
        return
    assert re.match(named, verdict), verdict
    assert "hang_timeout_s=4" in verdict
    assert len(re.findall(r"rank \d", verdict)) == 1


def test_a_process_that_is_gone_is_named_at_once(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    dog = watchdog(tmp_path, exit_cause=lambda pid: "killed by SIGKILL" if pid == child.pid else "")
    beat = Beat(start="a", rank=1, host=dog.beat.host, pid=child.pid, step=5, batches=6)
    try:
        assert seen(dog, beat) == ""
        child.send_signal(signal.SIGSTOP)
        while process_state(child.pid) != "stopped":
            time.sleep(0.01)
        assert dog.judge() == ""  # it may be sent on
        dog._seen[1] = (beat, time.monotonic() - 5)
        assert "no sign of life for 5 s: it is stopped by a signal" in dog.judge()
        child.kill()
        while process_state(child.pid) != "gone":
            time.sleep(0.01)
        verdict = dog.judge()
        assert f"rank 1 (host {dog.beat.host}, pid {child.pid}) is dead (killed by SIGKILL); it was at work" in verdict
        assert "goes on from the last checkpoint" in verdict
    finally:
        child.kill()
        child.wait()
    assert process_state(os.getpid()) == "running"


def test_silence_of_another_machine_and_of_one_that_never_spoke(tmp_path):
    dog = watchdog(tmp_path, size=3)
    beat = Beat(**HERE, rank=1, batches=1)
    assert seen(dog, beat) == ""
    past = time.monotonic() - 70
    dog._seen = {1: (beat, past), 2: (None, past)}
    verdict = dog.judge()
    assert "rank 1 (host elsewhere, pid 1) has given no sign of life for 70 s" in verdict
    assert "rank 2 has never given a sign of life in 70 s" in verdict


def test_two_threads_find_the_one_whose_main_thread_stands_still(tmp_path):
    """Both threads belong to this process, whose main thread waits below; the second says that it has gone further."""
    verdicts: dict[int, tuple[str, bool]] = {}
    ended = threading.Event()

    def end(rank):
        def keep(verdict, speaks):
            verdicts[rank] = (verdict, speaks)
            if len(verdicts) == 2:
                ended.set()

        return keep

    dogs = [
        watchdog(tmp_path, rank=rank, look=lambda rank=rank: (2, 3 + rank, "training"), end=end(rank), hang=0.8)
        for rank in (0, 1)
    ]
    since = time.monotonic()
    for dog in dogs:
        dog.start()
    assert ended.wait(20)
    assert time.monotonic() - since > 0.8
    assert verdicts[0][0] == verdicts[1][0]
    assert verdicts[0][0].startswith("rank 0 ")
    assert "test_training_watchdog.py" in Path(path_of(tmp_path, 0).with_suffix(".traceback.txt")).read_text()
    assert [verdicts[rank][1] for rank in (0, 1)].count(True) >= 1


@pytest.mark.parametrize(("doing", "still"), [("other", False), ("training", True), ("reading", True)])
def test_long_work_at_one_line_is_progress_outside_of_steps_only(tmp_path, doing, still):
    verdicts = []
    dog = watchdog(
        tmp_path, size=1, look=lambda: (3, 4, doing), end=lambda verdict, speaks: verdicts.append(verdict), hang=0.6
    )
    dog.start()
    until = time.monotonic() + 1.5
    while time.monotonic() < until and not verdicts:
        hashlib.sha256(bytes(1 << 22)).digest()  # lets other threads run
    dog.stop()
    dog.join(5)
    assert bool(verdicts) == still
    if not still:
        beat = read_beat(tmp_path, 0, "a")
        assert beat is not None
        assert beat.done
