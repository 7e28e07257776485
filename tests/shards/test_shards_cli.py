import argparse
import subprocess
import sys

import pytest
from shard_build import build, tree, video

from shards.cli import main
from shards.options import add_build_options, make_recipe, parse_bytes
from ssl_affect.cli import main as top
from ssl_affect.errors import ConfigError
from ssl_affect.recipe import Recipe


@pytest.fixture
def videos(tmp_path):
    video(tmp_path / "in/a.mp4")
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("text", "size"), [("384M", 384_000_000), ("1G", 10**9), ("1.5g", 1_500_000_000), ("64KB", 64_000), ("500", 500)]
)
def test_sizes(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1M", "0", "1T", "1 GB x"])
def test_wrong_sizes_are_errors(text):
    with pytest.raises(ConfigError, match="384M"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--detector", "mtcnn"], "--detector is for --faces detect"),
        (["--boxes", "x.csv"], "go together"),
        (["--faces", "boxes"], "go together"),
        (["--faces", "boxes", "--boxes", "x.csv"], "no such file"),
        (["--faces", "fixed"], "fixed_crop"),
        (["--fixed-crop", "0,0,10,10"], "fixed_crop"),
        (["--faces", "detect", "--detector", "yunet"], "--detector-weights"),
        (["--size", "33"], "even"),
        (["--quality", "52"], "video_quality"),
        (["--frames", "gif"], "gif"),
        (["--fps", "0"], "fps"),
        (["--min-seconds", "9", "--max-seconds", "3"], "in order"),
        (["--workers", "0"], "positive"),
        (["--prefix", "a/b"], "--prefix"),
        (["--shard-bytes", "much"], "384M"),
        (["--recipe", "x.json", "--margin", "0"], "leave out"),
        (["--root", "x"], "--manifest"),
        (["--manifest", "gone.csv"], "no such file"),
    ],
)
def test_wrong_arguments_say_what_to_do_and_touch_nothing(videos, tmp_path, capsys, options, words):
    assert build(videos, tmp_path / "out", *options) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_wrong_folders_are_errors(videos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("x")
    for root, out, words in (
        (tmp_path / "gone", tmp_path / "out", "does not exist"),
        (videos / "a.mp4", tmp_path / "out", "is a file, not a folder"),
        (tmp_path / "empty", tmp_path / "out", "no sources"),
        (videos, videos / "out", "lies inside"),
        (videos, videos, "lies inside"),
        (videos, tmp_path / "file", "a file stands there"),
        (videos, tmp_path / "full", "thesis.tex"),
    ):
        assert build(root, out) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert set(tree(tmp_path / "full")) == {"thesis.tex"}


def test_defaults_are_those_of_the_recipe(videos, tmp_path):
    parser = argparse.ArgumentParser()
    add_build_options(parser)
    recipe, name = make_recipe(parser.parse_args([str(videos), "--out", str(tmp_path / "out")]))
    values = recipe.to_dict()
    assert name == "mtcnn"
    assert values.pop("detector").startswith("mtcnn")
    assert len(values.pop("detector_sha256")) == 64
    assert values == {
        key: value for key, value in Recipe().to_dict().items() if key not in ("detector", "detector_sha256")
    }


@pytest.mark.parametrize("command", ["build", "verify", "stats", "view"])
def test_help_has_examples(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"ssl-affect shards {command} " in capsys.readouterr().out


def test_help_is_quick_for_it_imports_no_torch():
    code = "import sys, shards.cli\ntry: shards.cli.main(['build', '--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit('torch' in sys.modules or 'av' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_unknown_commands_and_options_end_with_2(tmp_path, capsys):
    for arguments in (["shards"], ["shards", "bild"], ["shards", "build", "--out", "x", "--colour", "red"]):
        with pytest.raises(SystemExit) as stop:
            top(arguments)
        assert stop.value.code == 2
    assert top(["shards", "build", "--out", str(tmp_path / "out")]) == 2
    assert "give the folder of videos" in capsys.readouterr().err


def test_other_files_are_mentioned(videos, tmp_path, capsys):
    (videos / "notes.txt").write_text("x")
    (videos / "list.csv").write_text("x")
    assert build(videos, tmp_path / "out") == 0
    assert "passed over 2 files that are no videos: .csv 1, .txt 1" in capsys.readouterr().err
