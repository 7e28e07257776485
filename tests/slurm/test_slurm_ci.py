"""What continuous integration does about Slurm: runs its tests where it can, and says so where it cannot."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLURM = ("munged", "slurmctld", "slurmd", "sbatch")
MAKE = '#!/bin/bash\necho "make $*"\n[ "$1" != "$FAILS" ]\n'
APT = '#!/bin/bash\n[ "$OFFLINE" = no ] || { echo "W: old" >&2; echo "E: no such host" >&2; exit 100; }\n'
SUDO = '#!/bin/bash\nshift\nexec "$@"\n'


@pytest.fixture
def ci(tmp_path):
    """Runs .ci/run with a ``make`` that only says what it was asked for, on a machine that has the named commands."""
    if any(shutil.which(name, path="/usr/sbin:/sbin") for name in ("sbatch", "apt-get", "sudo")):
        pytest.skip("commands of this machine lie where install.sh always looks")
    for name in ("bash", "env", "dirname", "mktemp", "timeout", "grep", "tail", "rm", "true"):
        (tmp_path / name).symlink_to(shutil.which(name))

    def run(*commands: str, **environment: str) -> tuple[int, list[str], list[str]]:
        for name, text in (
            ("make", MAKE),
            *((name, {"apt-get": APT, "sudo": SUDO}.get(name, "")) for name in commands),
        ):
            (tmp_path / name).write_text(text)
            (tmp_path / name).chmod(0o755)
        done = subprocess.run(
            ["bash", str(ROOT / ".ci" / "run")],
            env={"PATH": str(tmp_path), **environment},
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()

    return run


@pytest.mark.parametrize(
    ("commands", "why"),
    [((), "there is no apt-get"), (("apt-get", "sudo"), "(E: no such host)")],
    ids=["no apt", "offline"],
)
def test_where_slurm_cannot_be_installed_one_line_says_why(ci, commands, why):
    code, said, (line,) = ci(*commands)
    assert code == 0
    assert said[0] == "make test"
    assert "make test-slurm" not in said
    assert "Slurm tests: NOT RUN" in line
    assert "sbatch" in line
    assert why in line


@pytest.mark.parametrize("commands", [SLURM, ("apt-get", "sudo")], ids=["there", "installed"])
def test_where_it_is_there_or_can_be_installed_its_tests_are_run(ci, commands):
    code, said, errors = ci(*commands, OFFLINE="no")
    assert (code, said[0], said[-1], errors) == (0, "make test", "make test-slurm", [])


@pytest.mark.parametrize("fails", ["test", "test-slurm"])
def test_a_failure_of_either_fails(ci, fails):
    code, said, _ = ci(*SLURM, FAILS=fails)
    assert code != 0
    assert said[-1] == f"make {fails}"
