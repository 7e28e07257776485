"""The shipped smoke study from end to end, interrupted by nothing; and that the second call finds all of it done."""

import json
import os
import subprocess
import sys

import pytest

from ssl_affect.bakeoff.config import CONFIGS


@pytest.mark.slow
def test_the_smoke_study_runs_and_is_not_run_twice(tmp_path):
    out = tmp_path / "out"
    config = CONFIGS / "bakeoff" / "smoke.yaml"
    command = [sys.executable, "-m", "ssl_affect.cli", "bakeoff", "--config", str(config), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--workers", "1"], check=True, env=environment)
    results = json.loads((out / "smoke.json").read_bytes())
    study = results["studies"]["faces"]
    commands = len(study["commands"])
    assert {row["method"] for row in study["figures"]} == {"mae_dfer", "videomae", "pixel_statistics"}
    assert {row["share"] for row in study["figures"] if row["method"] == "mae_dfer"} == {"0", "1"}
    for name in ("mae_dfer", "videomae"):
        method = study["methods"][name]
        assert 0.9 * study["budget"] < method["flops"] <= study["budget"]
        assert method["runs"][0]["seconds"] > 0
    assert len(study["signs"]) == 5
    assert "<svg" in (out / "smoke.html").read_text(encoding="utf-8")
    again = subprocess.run([*command, "--workers", "1"], check=True, env=environment, capture_output=True, text=True)
    assert again.stdout.count("done before") == commands
    assert json.loads((out / "smoke.json").read_bytes()) == results
