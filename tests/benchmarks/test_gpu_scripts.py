"""The scripts for a GPU, on a CPU: they need none of the packages that a bare machine lacks, and their figures add up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import selftest, step
from benchmarks.gpu.count import MODELS, PATH, count
from benchmarks.gpu.variants import VARIANTS, Variant, build_step

ROOT = Path(__file__).parents[2]
MISSING = (
    "webdataset",
    "decord",
    "jsonargparse",
    "fvcore",
    "av",
    "soundfile",
    "simplejpeg",
    "cv2",
    "pytorch_lightning",
)


def test_nothing_is_imported_that_may_be_missing():
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in MISSING)
    code = f"import sys; {blocked}import benchmarks.gpu.step, benchmarks.gpu.selftest, benchmarks.gpu.count"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_counted_flops_are_those_of_the_models():
    stored = json.loads(PATH.read_bytes())
    assert set(stored) == set(MODELS)
    assert stored["svfap_tiny"] == count("svfap_tiny")


def test_plain_and_suite_do_the_same_step():
    plain, suite = (build_step("svfap_tiny", Variant("", plain=plain, low=False), 2, "cpu") for plain in (True, False))
    assert float(plain()) == pytest.approx(float(suite()), rel=1e-4)
    assert float(plain()) == pytest.approx(float(suite()), rel=1e-3)  # after an update


def test_rows_are_written_one_by_one_and_kept(tmp_path, capsys):
    arguments = [
        "--device",
        "cpu",
        "--tiny",
        "--methods",
        "mae_dfer",
        "--batches",
        "2",
        "--steps",
        "1",
        "--out",
        str(tmp_path),
    ]
    names = ["plain", "suite", "suite, one graph"]
    assert step.main([*arguments, "--variants", *names, "--limit-s", "0"]) == 0
    assert "goes on" in capsys.readouterr().out
    assert step.main([*arguments, "--variants", *names]) == 0
    rows = json.loads((tmp_path / "step.json").read_bytes())["rows"]
    assert list(rows) == [f"mae_dfer_tiny, 2, {name}" for name in sorted(names)]
    assert "CUDA device" in rows["mae_dfer_tiny, 2, suite, one graph"]["failed"]
    assert rows["mae_dfer_tiny, 2, suite"]["seconds"] > 0
    assert "suite, one graph" in (tmp_path / "step.md").read_text()
    capsys.readouterr()
    assert step.main([*arguments, "--variants", *names]) == 0
    assert capsys.readouterr().out == ""  # all rows are there


@pytest.mark.slow
@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.one_graph], ids=lambda v: v.name)
@pytest.mark.parametrize("method", ["mae_dfer", "svfap", "hicmae"])
def test_every_variant_steps_on_a_cpu(method, variant):
    work = build_step(f"{method}_tiny", variant, 2, "cpu")
    work()
    assert torch.isfinite(work())


@pytest.mark.slow
def test_self_tests_pass_on_a_cpu(capsys):
    assert selftest.main(["--device", "cpu", "--tiny"]) == 0
    assert "all within tolerance" in capsys.readouterr().out
