import json

import numpy as np
import pytest
from media import numbered, write_video
from shard_build import build, video

from shards.stats import Quantity, collect
from ssl_affect.cli import main


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("stats")
    for name, frames in (("a", 30), ("b", 40), ("c", 50)):
        video(root / f"in/{name}.mp4", frames=frames, sound=name != "c")
    write_video(root / "in/d.mp4", numbered(30), sound=np.zeros(19200), sound_rate=16000)
    (root / "in/e.mp4").write_text("no")
    rows = ["path,subject,emotion", "a.mp4,s1,sad", "b.mp4,s1,glad", "c.mp4,s2,sad", "d.mp4,s2,sad", "e.mp4,s2,sad"]
    (root / "list.csv").write_text("\n".join(rows))
    assert build(root / "in", root / "set", "--manifest", root / "list.csv") == 0
    return root / "set"


def test_figures_are_those_of_the_videos(shards):
    values = collect(shards).to_dict()
    assert values["totals"]["samples"] == 4
    assert values["totals"]["sources"] == 5
    assert values["totals"]["seconds"] == pytest.approx(6.0)
    assert values["totals"]["frames"] == 150
    assert values["totals"]["samples without sound"] == 1
    assert values["totals"]["samples with silent sound"] == 1
    duration = values["quantities"]["duration (s)"]
    assert (duration["min"], duration["median"], duration["max"]) == pytest.approx((1.2, 1.4, 2.0))
    assert sum(duration["histogram"]["counts"]) == duration["count"] == 4
    assert values["quantities"]["level (dB of full scale)"]["count"] == 2
    assert values["quantities"]["level (dB of full scale)"]["mean"] == pytest.approx(-13.5, abs=1)
    assert values["quantities"]["face size (px)"] == {"count": 0}
    assert values["subjects"] == {"s1": 2, "s2": 2}
    assert values["labels"] == {"emotion": {"glad": 1, "sad": 3}}
    assert values["quarantine"] == {"open": 1}


def test_command_prints_tables_and_bars_and_writes_json(shards, tmp_path, capsys):
    assert main(["shards", "stats", str(shards), "--json", str(tmp_path / "stats.json")]) == 0
    text = capsys.readouterr().out
    assert "duration (s)" in text
    assert "#" * 40 in text
    assert "label emotion: 2 values" in text
    assert json.loads((tmp_path / "stats.json").read_text()) == collect(shards).to_dict()


def test_histogram_of_equal_values_is_one_bin_and_of_others_holds_all():
    assert Quantity("x", np.full(7, 25.0)).histogram()[0].tolist() == [7]
    counts, edges = Quantity("x", np.arange(100.0)).histogram()
    assert counts.sum() == 100
    assert len(edges) == len(counts) + 1


def test_unfinished_sets_are_refused(tmp_path, capsys):
    assert main(["shards", "stats", str(tmp_path)]) == 2
    assert "no manifest.json" in capsys.readouterr().err
