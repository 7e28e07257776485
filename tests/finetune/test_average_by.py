"""Samples that are one case: their scores are averaged, whatever the order, and nothing is guessed."""

import numpy as np
import pytest
from shard_fixture import make_shards

from finetune.data import LabelledClips
from finetune.module import Finetuning
from finetune.prediction import predict
from finetune.split import SplitSpec
from finetune.tasks import TaskSpec
from finetune.tuning import TuningSpec
from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec
from ssl_affect.types import ClipSpec

CLIP = ClipSpec(num_frames=4, stride=2, size=32)
CASES = ["v1", "v0", "v1", "v2", "v0", "v1"]  # of the samples of the test part
LABELS = {"v0": "calm", "v1": "dull", "v2": "calm"}


def facts(number):
    labels = {"part": "train", "video": f"t{number}", "arousal": "calm"}
    if number >= 4:
        case = CASES[number - 4]
        labels = {
            "part": "test",
            "video": case,
            "arousal": LABELS[case],
            "odd": number,
            "hole": case if number > 4 else None,
        }
    return {"subject": f"p{number}", "labels": labels}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_shards(tmp_path_factory.mktemp("set"), shard_sizes=(4, 6), num_frames=12, audio=False, facts=facts)


@pytest.fixture(scope="module")
def module():
    return Finetuning(
        model="mae_dfer_tiny",
        tasks=[TaskSpec(kind="expression", columns=("arousal",), classes=("calm", "dull"))],
        clip=CLIP,
        audio=None,
        seed=0,
        pretrained=None,
        tuning=TuningSpec(),
        optim=OptimSpec(base_lr=1.0, min_lr=0.0, betas=(0.9, 0.999), weight_decay=0.0),
        schedule=ScheduleSpec(steps=2, warmup_steps=0),
        arch={"embed_dim": 32, "depth": 1, "num_heads": 1, "head_init_scale": 1.0},
    )


def results(folder, module, **settings):
    split = SplitSpec(column="part", validation_share=0)
    data = LabelledClips(
        shards=folder, clip=CLIP, batch_size=4, seed=0, split=split, num_workers=0, test_views=2, **settings
    )
    return predict(module, data, "test")[0]["expression"]


def test_a_case_has_the_mean_score_of_its_samples(folder, module):
    single, averaged = results(folder, module), results(folder, module, average_by="video")
    assert list(averaged.ids) == ["v0", "v1", "v2"]
    of_sample = dict(zip(single.ids, single.scores, strict=True))
    for case, score, label in zip(averaged.ids, averaged.scores, averaged.labels, strict=True):
        keys = [f"clip{4 + number:05d}" for number, other in enumerate(CASES) if other == case]
        np.testing.assert_allclose(score, np.mean([of_sample[key] for key in keys], axis=0), atol=1e-12)
        assert label == ("calm", "dull").index(LABELS[case])
    assert len({tuple(score) for score in single.scores}) > 1, "equal scores would not show what was averaged"


@pytest.mark.parametrize(
    ("column", "error", "words"),
    [
        ("nothing", ConfigError, r"average_by name \['nothing'\].*arousal, hole, odd, part, video"),
        ("part", PredictionsError, r"the case 'test' have the labels 1 and 0"),
        ("hole", PredictionsError, "clip00004 has no value there"),
    ],
)
def test_columns_that_name_no_cases_are_refused(folder, module, column, error, words):
    with pytest.raises(error, match=words):
        results(folder, module, average_by=column)
