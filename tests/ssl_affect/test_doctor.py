"""The doctor on this machine, and on machines that are made sick by files put first on the module path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import ssl_affect

REPOSITORY = Path(ssl_affect.__file__).parent.parent
METADATA = """Metadata-Version: 2.1
Name: ssl-affect
Version: 0.1.0
Requires-Dist: numpy>=2
Requires-Dist: no-such-package>=3
Requires-Dist: pillow<1
Requires-Dist: soundfile
Requires-Dist: simplejpeg
Requires-Dist: torch
Requires-Dist: only-elsewhere; sys_platform == "amiga"
Requires-Dist: only-for-developers; extra == "dev"
"""


def doctor(folder: Path, *, sick: bool) -> subprocess.CompletedProcess:
    environment = dict(os.environ)
    if sick:
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(REPOSITORY)])
    command = [sys.executable, "-m", "ssl_affect.cli", "doctor"]
    # not in the repository: an egg-info there would come before the metadata that the tests make
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def sick(tmp_path):
    """A module path whose packages are wrong in ways that happen; torch, for one, misses a library."""
    info = tmp_path / "ssl_affect-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(METADATA)
    (tmp_path / "torch.py").write_text("raise OSError('libc10_cuda.so: cannot open shared object file')")
    return tmp_path


def test_a_healthy_machine_is_one_screen_and_exit_code_0(tmp_path):
    done = doctor(tmp_path, sick=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) < 50
    for word in ("Python", "packages", "jpeg decoders", "video decoders", "mtcnn", "shared memory", "open files"):
        assert word in done.stdout
    assert "all that is needed works" in done.stdout


def test_broken_missing_and_too_old_packages_are_named_with_a_remedy(sick):
    (sick / "soundfile.py").write_text("raise OSError('libsndfile.so.1: cannot open shared object file')")
    done = doctor(sick, sick=True)
    assert done.returncode == 1
    assert "libsndfile.so.1: cannot open shared object file" in done.stdout
    assert 'pip install "no-such-package>=3"' in done.stdout
    assert "outside <1" in done.stdout
    assert "only-elsewhere" not in done.stdout
    assert "only-for-developers" not in done.stdout
    assert "fails: no-such-package, soundfile, torch" in done.stdout
    assert "torch torchvision torchaudio" in done.stdout  # to be mended as one set
    assert "Traceback" not in done.stdout + done.stderr


def test_a_library_that_kills_its_process_costs_one_line(sick):
    (sick / "simplejpeg.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    done = doctor(sick, sick=True)
    assert done.returncode == 1
    assert "the process ended with -11 at import simplejpeg" in done.stdout
    assert "disk" in done.stdout  # the rest of the report is there
    assert "Traceback" not in done.stdout + done.stderr
