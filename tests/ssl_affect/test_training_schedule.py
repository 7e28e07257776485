import pytest

from ssl_affect.errors import ConfigError
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec, Steps


def test_published_schedule_in_steps():
    spec = ScheduleSpec(epochs=100, warmup_epochs=5, stop_epoch=50)
    steps = spec.in_steps(num_samples=1_091_726, global_batch=160)
    assert steps == Steps(total=682_328, warmup=34_116, stop=341_164)


def test_steps_are_taken_as_they_are():
    spec = ScheduleSpec(steps=600, warmup_steps=0)
    assert spec.in_steps(num_samples=10, global_batch=10) == Steps(total=600, warmup=0, stop=600)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"epochs": 3},
        {"steps": 3},
        {"epochs": 3, "warmup_steps": 1},
        {"epochs": 3, "warmup_epochs": 1, "steps": 3, "warmup_steps": 1},
        {"epochs": 3, "warmup_epochs": 3},
        {"steps": 3, "warmup_steps": -1},
        {"steps": 3, "warmup_steps": 1, "stop_epoch": 1},
        {"epochs": 3, "warmup_epochs": 1, "stop_epoch": 4},
    ],
)
def test_impossible_schedules_are_refused(values):
    with pytest.raises(ConfigError, match="schedule"):
        ScheduleSpec(**values)


def test_less_than_one_step_is_refused():
    with pytest.raises(ConfigError, match="less than one step"):
        ScheduleSpec(epochs=0.5, warmup_epochs=0).in_steps(num_samples=10, global_batch=8)


@pytest.mark.parametrize(
    "wrong",
    [{"base_lr": 0.0}, {"min_lr": 1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -0.1}],
    ids=lambda w: next(iter(w)),
)
def test_impossible_optimizers_are_refused(wrong):
    values = {"base_lr": 1e-3, "min_lr": 1e-5, "betas": (0.9, 0.95), "weight_decay": 0.05, **wrong}
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OptimSpec(**values)
