"""The best checkpoint is the best of the validation part by the figure that was asked for, and by nothing else."""

import numpy as np
import pytest
from finetune_runs import (
    AFFECT,
    EXPRESSION,
    SHORT,
    UNITS,
    callback,
    checkpoint,
    facts,
    finetune,
    labelled_shards,
    recipe,
)
from pretrain_runs import column

from finetune.selection import Selection, logged_names, validation_figures
from finetune.tasks import TaskSpec, make_task
from ssl_affect.errors import ConfigError
from ssl_affect.evaluation import make_predictions


def predictions(kind, names, labels, values):
    ids = [str(number) for number in range(len(labels))]
    return make_predictions(kind, ids=ids, labels=np.array(labels), names=names, predictions=np.array(values))


def test_figures_of_a_validation():
    """The score is the mean of the primary figures; what is not defined is NaN."""
    expression = predictions("expression", ("a", "b"), [0, 0, 1, 1], [0, 0, 1, 0])
    units = predictions("au", ("u",), [[1.0], [0], [1], [0]], [[0.9], [0.1], [0.2], [0.3]])
    found = validation_figures({"emotion": expression, "au": units})
    assert found["val/emotion/uar"] == 0.75
    assert found["val/au/mean_f1"] == pytest.approx(2 / 3)
    assert found["val/score"] == pytest.approx((0.75 + 2 / 3) / 2)
    absent = predictions("au", ("u",), [[0.0], [0.0]], [[0.1], [0.2]])
    found = validation_figures({"au": absent})
    assert np.isnan(found["val/mean_f1"])
    assert np.isnan(found["val/score"])
    assert validation_figures({"e": expression, "au": absent})["val/score"] == 0.75


def test_every_name_that_can_be_monitored_is_logged():
    specs = [TaskSpec(**EXPRESSION), TaskSpec(**UNITS), TaskSpec(**AFFECT)]
    of_task = {
        "expression": predictions("expression", ("calm", "happy", "sad"), [0, 1, 2], [0, 1, 2]),
        "au": predictions("au", ("au01", "au12"), [[1.0, 0], [0, 1]], [[1.0, 0], [0, 1]]),
        "va": predictions("va", ("valence", "arousal"), [[0.1, 0], [0, 1]], [[0.5, 0], [0, 1]]),
    }
    for kept in (specs, specs[:1], specs[2:]):
        figures = validation_figures({spec.label: of_task[spec.kind] for spec in kept})
        losses = {"val/loss"} | ({f"val/{spec.label}/loss" for spec in kept} if len(kept) > 1 else set())
        assert set(logged_names([make_task(spec) for spec in kept])) == set(figures) | losses


@pytest.mark.parametrize("monitor", ["test/uar", "val/test_uar", "testUAR"])
def test_a_test_figure_chooses_nothing(monitor):
    with pytest.raises(ConfigError, match="is a test metric"):
        Selection(monitor=monitor)


@pytest.mark.parametrize("values", [{"every_n_epochs": 0}, {"views": 0}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ConfigError, match="must be above 0"):
        Selection(**values)


def test_a_state_of_another_figure_is_refused():
    state = {"best": 0.5, "best_step": 3, "monitor": "val/score", "views": 1}
    same = Selection()
    same.load_state_dict(state)
    assert same.state_dict() == state
    for other in (Selection(monitor="val/loss"), Selection(views=2)):
        with pytest.raises(ConfigError, match="the best checkpoint so far was chosen with"):
            other.load_state_dict(state)


def test_a_figure_that_does_not_exist_is_named_before_the_first_step(tmp_path, shards):
    run = tmp_path / "run"
    with pytest.raises(
        ConfigError, match=r"monitor='val/uar' is not logged; choose from val/loss, .*val/expression/uar"
    ):
        finetune(run, recipe(shards, **SHORT), "--validation.monitor=val/uar")
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize("monitor", ["val/score", "val/loss", "val/au/loss", "val/expression/war"])
def test_the_best_checkpoint_is_that_of_the_best_validation(tmp_path, shards, monitor):
    run = tmp_path / "run"
    stop = callback("pretrain_runs.SignalAt", name="SIGTERM", step=8)  # nothing is tested here
    values = recipe(shards, **stop, model__init_args__tasks=[EXPRESSION, UNITS])
    values["model"]["init_args"]["schedule"] = {"steps": 9, "warmup_steps": 0}
    if monitor == "val/expression/war":  # nothing is learned: all validations are equally good
        values["model"]["init_args"]["optim"]["base_lr"] = 1e-9
    assert finetune(run, values, f"--validation.monitor={monitor}") == 0
    found = column(run, monitor)
    assert (len(set(found.values())) == 1) == (monitor == "val/expression/war")
    assert list(found) == [2, 4, 6, 8]
    best = checkpoint(run, "best.ckpt")
    choose = min if monitor.endswith("loss") else max  # of equal ones the first, as a run finds it
    assert best["global_step"] == choose(found, key=found.__getitem__)
    assert best["callbacks"]["Selection"]["best"] == pytest.approx(choose(found.values()))
    assert best["callbacks"]["Selection"]["best_step"] == best["global_step"]
    last = checkpoint(run, "last.ckpt")
    assert last["global_step"] == 8
    assert last["callbacks"]["Selection"] == best["callbacks"]["Selection"]


def test_a_figure_that_is_not_defined_chooses_nothing_and_stops_nothing(tmp_path, caplog):
    """The labels of the validation part do not vary: their correlation is not defined, and nothing is chosen by it."""

    def alike(number):
        found = facts(number)
        if 8 <= number < 12:
            found["labels"] |= {"valence": 0.5, "arousal": 0.5}
        return found

    run = tmp_path / "run"
    values = recipe(labelled_shards(tmp_path / "shards", facts=alike), **SHORT, model__init_args__tasks=[AFFECT])
    assert finetune(run, values, "--validation.monitor=val/mean_pcc") == 0
    assert "val/mean_pcc is not defined, nothing is chosen by it" in caplog.text
    assert not (run / "checkpoints" / "best.ckpt").exists()
    assert set(column(run, "val/loss")) == {2}
    assert not column(run, "val/mean_pcc")
    assert "no checkpoint was chosen by the validation part" in (run / "test" / "test.json").read_text()
