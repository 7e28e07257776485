"""The one command: it starts fast, names its parts, and turns mistakes into one line."""

import subprocess
import sys

import pytest

from ssl_affect.cli import COMMANDS, main


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from ssl_affect.cli import main; main(['--help']);"
        " sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'cv2', 'av')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize(("argument", "hint"), [("shard", "shards"), ("pretrian", "pretrain"), ("dmeo", "demo")])
def test_misspelt_commands_get_a_suggestion(argument, hint, capsys):
    assert main([argument]) == 2
    assert f"did you mean '{hint}'" in capsys.readouterr().err


def test_errors_of_the_user_are_one_message_and_exit_code_2(tmp_path, capsys):
    assert main(["shards", "stats", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path) in message
    assert "Traceback" not in message


@pytest.mark.parametrize("command", ["demo", "doctor", "shards"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"ssl-affect {command}" in capsys.readouterr().out


def test_synth_is_reached_through_shards(tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "set"), "--clips", "1", "--seconds", "0.2", "--size", "64", "--workers", "1"]
    assert main(["shards", "synth", *arguments]) == 0
    assert (tmp_path / "set" / "manifest.csv").is_file()
    assert "synthetic" in capsys.readouterr().out
