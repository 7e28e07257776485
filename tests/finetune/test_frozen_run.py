"""Runs on frozen features, from the command line: features once, results that repeat, and what is refused."""

import json
import logging

import numpy as np
import pytest
from finetune_runs import AFFECT, EXPRESSION, PER_FRAME, UNITS, facts, labelled_shards, make_data, recipe, results
from finetune_runs import finetune as fit

from finetune.cli import main
from finetune.testing import join_runs
from ssl_affect.errors import CheckpointError, ConfigError, PredictionsError, ShardError
from ssl_affect.evaluation import read_predictions


def frozen(shards, mode="linear", **changes):
    given = {
        "model__init_args__tuning": {"mode": mode},
        "model__init_args__tasks": [EXPRESSION, UNITS, AFFECT],
        "model__init_args__optim": None,
        "model__init_args__schedule": None,
        "model__init_args__arch": {"embed_dim": 32, "depth": 2, "num_heads": 1},
    }
    return recipe(shards, **{**given, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["linear", "knn"])
def test_a_probe_is_fitted_tested_and_repeats_from_its_cache(tmp_path, shards, mode, caplog):
    caplog.set_level(logging.INFO)
    run, values = tmp_path / "run", frozen(shards, mode)
    assert fit(run, values) == 0
    written = json.loads((run / "test" / "test.json").read_text())
    assert written["rules"] == ["validation"], "its setting was chosen by the validation part"
    assert set(written["tasks"]) == {"expression", "au", "va"}
    found = read_predictions(run / "test/va/predictions.csv", "va")["validation"]
    assert found.ids.tolist() == [f"clip{number:05d}" for number in range(12, 17)]
    assert found.labels[:, 0].tolist() == [facts(number)["labels"]["valence"] for number in range(12, 17)]
    state = json.loads((run / "run.json").read_text())
    assert state["state"] == "finished"
    assert set(state["probes"]) == {"expression", "au", "va"}
    cached = {path: path.stat().st_mtime_ns for path in (run / "features").rglob("*") if path.is_file()}
    assert cached
    before = results(run)
    assert fit(run, values) == 0
    assert results(run) == before
    assert {path: path.stat().st_mtime_ns for path in (run / "features").rglob("*") if path.is_file()} == cached
    assert "Test: va" in (run / "report.html").read_text()


def test_folds_of_probes_join(tmp_path, shards):
    cache = str(tmp_path / "cache")
    runs = []
    for fold in ("test", "val"):
        runs.append(tmp_path / fold)
        split = {"column": "part", "fold": fold, "validation_share": 0.0}
        tuning = {"mode": "linear", "cache": cache}
        values = frozen(shards, data__split=split, model__init_args__tuning=tuning, model__init_args__tasks=[AFFECT])
        assert fit(runs[-1], values) == 0
        assert json.loads((runs[-1] / "test" / "test.json").read_text())["rules"] == ["last"]
    joined = join_runs(runs, tmp_path / "out")["va"].runs["last"]
    assert joined.num_samples == 9
    assert [fold.name for fold in joined.folds] == ["test", "val"]


def test_what_cannot_be_decoded_is_said(tmp_path):
    folder = labelled_shards(tmp_path / "shards", damaged=(13,))
    values = frozen(folder, model__init_args__tasks=[AFFECT])
    with pytest.raises(ShardError, match="1 of 5 samples of the test part cannot be decoded"):
        fit(tmp_path / "run", values)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"
    values["data"]["max_bad_evaluation"] = 0.2
    assert fit(tmp_path / "other", values) == 0
    notes = json.loads((tmp_path / "other" / "test" / "test.json").read_text())["notes"]
    assert any(
        "1 of 5 samples of the test part could not be decoded and are not covered: clip00013" in n for n in notes
    )


def test_what_a_probe_cannot_do_is_refused(tmp_path, shards):
    with pytest.raises(ConfigError, match="linear probes read one feature per clip; use"):
        fit(tmp_path / "frames", frozen(shards, model__init_args__tasks=[PER_FRAME[2]]))
    with pytest.raises(ConfigError, match=r"runs on one device, got 2; say --trainer\.devices=1"):
        fit(tmp_path / "two", frozen(shards), "--trainer.devices=2")
    with pytest.raises(PredictionsError, match="'happy' in 'expression'"):
        fit(tmp_path / "names", frozen(shards, model__init_args__tasks=[{**EXPRESSION, "classes": ["calm", "sad"]}]))
    run = tmp_path / "run"
    assert fit(run, frozen(shards, model__init_args__tasks=[AFFECT])) == 0
    with pytest.raises(CheckpointError, match="tests runs on frozen features itself"):
        main(["test", str(run)])
    with pytest.raises(ConfigError, match="holds a run with another config"):
        fit(run, frozen(shards, "knn", model__init_args__tasks=[AFFECT]))


def test_a_case_is_one_row_of_a_probe_too(tmp_path):
    def cases(number):
        found = facts(number)
        found["labels"] |= {"case": f"v{number // 2}", "valence": number // 2 / 10}
        return found

    folder = labelled_shards(tmp_path / "shards", facts=cases)
    values = frozen(folder, data__average_by="case", data__groups=[])
    values["model"]["init_args"]["tasks"] = [{**AFFECT, "kind": "regression", "columns": ["valence"]}]
    assert fit(tmp_path / "run", values) == 0
    averaged = read_predictions(tmp_path / "run/test/regression/predictions.csv", "regression")["validation"]
    assert averaged.ids.tolist() == ["v6", "v7", "v8"]
    values["data"]["average_by"] = None
    assert fit(tmp_path / "single", values) == 0
    single = read_predictions(tmp_path / "single/test/regression/predictions.csv", "regression")["validation"]
    rows = dict(zip(single.ids.tolist(), single.predicted[:, 0], strict=True))
    for case, value in zip(averaged.ids.tolist(), averaged.predicted[:, 0], strict=True):
        of_case = [rows[f"clip{number:05d}"] for number in range(12, 17) if number // 2 == int(case[1:])]
        assert value == pytest.approx(np.mean(of_case))
    assert len(make_data(folder).parts.test) == 5
