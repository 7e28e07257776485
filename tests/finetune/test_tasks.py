import math

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from finetune.losses import LOSSES
from finetune.tasks import Targets, TaskSpec, check_flip, make_task, mix_targets
from ssl_affect.errors import ConfigError, PredictionsError

EXPRESSION = {"kind": "expression", "columns": ("expression",), "classes": ("anger", "joy", "fear")}


def _task(**spec):
    return make_task(TaskSpec(**spec))


def _rows(*columns):
    return [dict(zip("abc", values, strict=False)) for values in zip(*columns, strict=True)]


def test_classes_are_read_by_name_by_index_and_as_missing():
    labels = [{"expression": x} for x in ("joy", 2, "0", None, "", -1, math.nan, "-1", 2.0)]
    values, mask = _task(**EXPRESSION).encode(labels)
    assert mask[:, 0].tolist() == [True, True, True, False, False, False, False, False, True]
    assert values.argmax(dim=1)[mask[:, 0]].tolist() == [1, 2, 0, 2]
    assert values.sum(dim=1).tolist() == mask[:, 0].float().tolist()
    assert values.dtype == torch.float32


def test_numbers_that_are_names_of_classes_are_names():
    task = _task(kind="expression", columns=("arousal",), classes=("1", "2", "3"))
    assert task.encode([{"arousal": 1}, {"arousal": "3"}]).values.argmax(dim=1).tolist() == [0, 2]


@pytest.mark.parametrize("label", ["contempt", 3, 1.5, -2, True])
def test_unknown_classes_are_refused_with_the_classes_and_the_sample(label):
    with pytest.raises(PredictionsError, match=r"sample 'c7'.*") as error:
        _task(**EXPRESSION).encode([{"expression": "joy"}, {"expression": label}], keys=["c6", "c7"])
    if label != 1.5 and label != -2:
        assert "anger, joy, fear" in str(error.value)


CODES = {"multilabel": (-1, 9, 999), "au": (-1, 9, 999), "au-intensity": (-1, 9, 999), "va": (-5,), "regression": ()}


@pytest.mark.parametrize("kind", CODES)
def test_codes_for_missing_labels_become_masks(kind):
    codes = (*CODES[kind], None, "", math.nan, "nan")
    values, mask = _task(kind=kind, columns=("a", "b")).encode(_rows([1.0] * len(codes), codes))
    assert mask.tolist() == [[True, False]] * len(codes)
    assert values.tolist() == [[1.0, 0.0]] * len(codes)


def test_minus_one_is_a_legal_valence():
    values, mask = _task(kind="va", columns=("a", "b")).encode(_rows([-1.0, -1], [-5, 0.5]))
    assert values.tolist() == [[-1.0, 0.0], [-1.0, 0.5]]
    assert mask.tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("au", 2),
        ("au", "x"),
        ("au", 0.5),
        ("au-intensity", 5.5),
        ("va", -5.5),
        ("va", 3.0),
        ("va", True),
        ("regression", "high"),
        ("regression", math.inf),
    ],
)
def test_values_out_of_range_are_refused_by_column_and_sample(kind, label):
    with pytest.raises(PredictionsError, match="'b' of sample 'k1'"):
        _task(kind=kind, columns=("a", "b")).encode(_rows([0, 0], [0, label]), keys=["k0", "k1"])
    with pytest.raises(PredictionsError, match="sample 1 of the batch"):
        _task(kind=kind, columns=("a", "b")).encode(_rows([0, 0], [0, label]))


def test_intensities_are_cut_to_presence():
    task = _task(kind="au", columns=("a",), threshold=2)
    values, mask = task.encode(_rows([0, 1, 2, 5, 9]))
    assert values[:, 0].tolist() == [0, 0, 1, 1, 0]
    assert mask[:, 0].tolist() == [True] * 4 + [False]


def test_presence_may_be_true_and_false():
    assert _task(kind="multilabel", columns=("a",)).encode(_rows([True, False])).values[:, 0].tolist() == [1, 0]


def test_missing_columns_and_lists_in_the_wrong_place_are_refused():
    clip, frame = _task(kind="au", columns=("a", "b")), _task(kind="au", columns=("a",), per_frame=True)
    with pytest.raises(ConfigError, match=r"sample 'k' has no label column 'b', only \['a'\]"):
        clip.encode([{"a": 1}], keys=["k"])
    with pytest.raises(ConfigError, match=r"'a' of sample 'k' holds 2 values.*per_frame: true"):
        clip.encode([{"a": [1, 0], "b": 1}], keys=["k"])
    for read in (frame.encode, lambda labels: frame.encode_frames(labels, torch.zeros(1, 2, dtype=torch.int64))):
        with pytest.raises(ConfigError, match=r"is 1, one label for the clip.*per_frame: false"):
            read([{"a": 1}])
    with pytest.raises(ConfigError, match="per_frame: true"):
        clip.encode_frames([{"a": 1, "b": 0}], torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"have \[1, 2\] values"):
        _task(kind="au", columns=("a", "b"), per_frame=True).encode([{"a": [1, 0], "b": [1]}])


def test_labels_are_picked_at_the_frames_of_the_clip():
    task = _task(kind="va", columns=("a", "b"), per_frame=True)
    labels = [{"a": [0.0, 0.1, 0.2, -5], "b": [1.0, None, -1.0, 0.5]}, {"a": [0.5, 0.6], "b": None}]
    values, mask = task.encode_frames(labels, torch.tensor([[1, 2, 3], [0, 1, 1]]))
    torch.testing.assert_close(values, torch.tensor([[[0.1, 0], [0.2, -1], [0, 0.5]], [[0.5, 0], [0.6, 0], [0, 0]]]))
    assert mask.tolist() == [
        [[True, False], [True, True], [False, True]],
        [[True, False], [True, False], [False, False]],  # the last frame is a repetition
    ]
    every = task.encode(labels)
    assert every.values.shape == (6, 2)
    assert every.mask.sum().item() == 3 + 3 + 2


def test_frames_of_classes_have_one_mask_each():
    task = _task(**EXPRESSION, per_frame=True)
    frames = torch.tensor([[0, 1, -1, -1]])
    values, mask = task.encode_frames([{"expression": ["joy", None, "fear"]}], frames)
    assert values.shape == (1, 4, 3)
    assert mask.tolist() == [[[True], [False], [False], [False]]]
    loss = task.loss(torch.zeros(1, 4, 3), Targets(values, mask))
    assert loss.item() == pytest.approx(math.log(3))


def test_frames_beyond_the_labels_are_refused():
    task = _task(kind="va", columns=("a",), per_frame=True)
    with pytest.raises(ConfigError, match="sample 'k' has 2 labels per column and a frame number 2"):
        task.encode_frames([{"a": [0.0, 0.1]}], torch.tensor([[1, 2]]), keys=["k"])
    with pytest.raises(PredictionsError, match="frame 1 of sample 'k'"):
        task.encode_frames([{"a": [0.0, 7]}], torch.tensor([[0, 1]]), keys=["k"])


def test_loss_does_not_depend_on_the_order_or_on_rows_without_labels():
    rng = np.random.default_rng(0)
    for kind in ("au", "va", "regression", "au-intensity"):
        task = _task(kind=kind, columns=("a", "b"))
        labels = _rows(*(rng.integers(0, 2, (2, 8)).tolist()))
        outputs = torch.from_numpy(rng.normal(size=(8, 2))).float()
        loss = task.loss(outputs, task.encode(labels))
        order = rng.permutation(8)
        torch.testing.assert_close(task.loss(outputs[order], task.encode([labels[i] for i in order])), loss)
        more = task.encode([*labels, {"a": None, "b": None}])
        torch.testing.assert_close(task.loss(torch.cat([outputs, torch.ones(1, 2)]), more), loss)


def test_a_good_answer_beats_the_best_constant_and_a_constant_does_not():
    rng = np.random.default_rng(1)
    for kind, names in LOSSES.items():
        for name in names:
            spec = EXPRESSION if kind == "expression" else {"kind": kind, "columns": ("a", "b")}
            task = _task(**{**spec, "loss": name})
            if kind == "expression":
                targets = task.encode([{"expression": int(i)} for i in rng.integers(0, 3, 30)])
            else:
                targets = task.encode(_rows(*rng.integers(0, 2, (2, 30)).tolist()))
            best = task.constant_loss(targets)
            sharp = 8 * targets.values - 4 if task.activation != "none" else targets.values
            assert task.loss(sharp, targets) < best
            for _ in range(5):
                constant = torch.from_numpy(rng.normal(size=task.num_outputs)).float().expand(30, -1)
                assert task.loss(constant, targets) >= best - 1e-5


def test_weights_of_the_training_part():
    task = _task(kind="au", columns=("a", "b"), class_weights="inverse", pos_weight="balanced")
    targets = task.encode(_rows([1, 0, 0, 0, None], [1, 1, 0, -1, -1]))
    with pytest.raises(ConfigError, match="fit_weights"):
        task.loss(torch.zeros(5, 2), targets)
    task.fit_weights(targets)
    rates = np.array([1 / 4, 2 / 3])
    w, q = 2 / rates / (1 / rates).sum(), (1 - rates) / rates
    expected = math.log(2) * (w[0] * (q[0] + 3) + w[1] * (2 * q[1] + 1)) / 7
    assert task.loss(torch.zeros(5, 2), targets).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ConfigError, match="b never occur"):
        task.fit_weights(task.encode(_rows([1, 0], [0, 0])))
    balanced = _task(kind="au", columns=("a", "b"), pos_weight="balanced")
    with pytest.raises(ConfigError, match="b have no positive"):
        balanced.fit_weights(balanced.encode(_rows([1, 0], [0, None])))


def test_inverse_class_weights_of_expressions():
    task = _task(**EXPRESSION, class_weights="inverse")
    targets = task.encode([{"expression": x} for x in ("anger", "anger", "joy", "fear", None)])
    task.fit_weights(targets)
    outputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor([2.0, 4.0, 4.0])  # any multiple
    expected = torch.nn.functional.cross_entropy(outputs[:4], torch.tensor([0, 0, 1, 2]), weight=weights)
    torch.testing.assert_close(task.loss(outputs, targets), expected)


def test_scores_follow_the_activation():
    outputs = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.bfloat16)
    for spec, activation in (
        (EXPRESSION, "softmax"),
        ({"kind": "au", "columns": tuple("abc")}, "sigmoid"),
        ({"kind": "va", "columns": tuple("abc")}, "none"),
        ({"kind": "regression", "columns": tuple("abc"), "sigmoid": True}, "sigmoid"),
    ):
        task = _task(**spec)
        assert task.activation == activation
        scores = {"softmax": lambda x: x.softmax(-1), "sigmoid": torch.sigmoid, "none": lambda x: x}
        torch.testing.assert_close(task.scores(outputs), scores[activation](outputs.float()))
        assert (task.name, task.num_outputs) == (spec["kind"], 3)
    task = _task(kind="regression", columns=("a",), sigmoid=True, loss="l1")
    assert task.loss(torch.zeros(1, 1), task.encode([{"a": 0.75}])).item() == pytest.approx(0.25)


def test_outputs_of_another_width_are_refused():
    task = _task(kind="au", columns=("a", "b"))
    with pytest.raises(ConfigError, match=r"outputs \[1, 3\] and targets \[1, 2\]; the head needs 2"):
        task.loss(torch.zeros(1, 3), task.encode([{"a": 1, "b": 0}]))


def test_mixed_targets_are_valid_where_both_partners_are():
    task = _task(**EXPRESSION, label_smoothing=0.1)
    targets = task.encode([{"expression": x} for x in ("anger", "joy", None)])
    mixed = mix_targets(targets, torch.tensor([1, 0, 0]), 0.75)
    assert mixed.values.tolist() == [[0.75, 0.25, 0.0], [0.25, 0.75, 0.0], [0.0, 0.0, 0.0]]
    assert mixed.mask[:, 0].tolist() == [True, True, False]
    same = mix_targets(targets, torch.arange(3), 0.3)
    torch.testing.assert_close(same.values, targets.values)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "emotion", "columns": ("a",)}, "kind 'emotion' is unknown"),
        ({"kind": "expression", "columns": ("a",)}, "two classes or more"),
        ({"kind": "expression", "columns": ("a", "b"), "classes": ("x", "y")}, "needs one column"),
        ({"kind": "au", "columns": ("a",), "classes": ("x", "y")}, "no classes"),
        ({"kind": "au", "columns": ()}, "a column per output"),
        ({"kind": "au", "columns": ("a", "a")}, "twice"),
        ({"kind": "au", "columns": ("a",), "loss": "mse"}, "use bce, asymmetric"),
        ({"kind": "au", "columns": ("a",), "loss": "bce+asymmetric"}, "use bce, asymmetric"),
        ({"kind": "va", "columns": ("a",), "loss": "ccc+bce"}, "a sum such as"),
        ({"kind": "va", "columns": ("a",), "label_smoothing": 0.1}, "label_smoothing"),
        ({"kind": "va", "columns": ("a",), "class_weights": (1.0,)}, "class_weights is for"),
        ({"kind": "au", "columns": ("a",), "class_weights": (1.0, 2.0)}, "must be 1 numbers"),
        ({"kind": "au", "columns": ("a",), "pos_weight": "inverse"}, "'balanced'"),
        ({**EXPRESSION, "pos_weight": (1.0, 1.0, 1.0)}, "pos_weight is for"),
        ({"kind": "va", "columns": ("a",), "threshold": 2.0}, "threshold"),
        ({"kind": "va", "columns": ("a",), "sigmoid": True}, "sigmoid"),
        ({"kind": "au", "columns": ("a",), "weight": -1.0}, "weight"),
    ],
)
def test_impossible_specs_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        TaskSpec(**spec)


@pytest.mark.parametrize("column", ["AU12_left", "Right brow", "AU6L", "AU6_R", "left"])
def test_sides_of_the_face_are_not_mirrored(column):
    tasks = [TaskSpec(kind="va", columns=("valence",)), TaskSpec(kind="au", columns=("AU1", column))]
    with pytest.raises(ConfigError, match=f"flip=0.5 mirrors clips, and {column} name"):
        check_flip(tasks, 0.5)
    check_flip(tasks, 0.0)
    check_flip(tasks[:1], 0.5)


@pytest.mark.parametrize(
    "column", ["AU12", "brightness", "AU1_intensity", "leftover", "arousal", "R", "expression_label"]
)
def test_other_columns_are_mirrored(column):
    check_flip([TaskSpec(kind="au", columns=(column,))], 0.5)


def test_a_spec_comes_from_yaml():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--tasks", type=list[TaskSpec])
    text = (
        "[{kind: expression, columns: [expression], classes: [anger, joy], label_smoothing: 0.1, class_weights: [1, 2]},"
        " {kind: au, columns: [AU1], threshold: 2, pos_weight: balanced, per_frame: true}]"
    )
    first, second = parser.instantiate(parser.parse_args(["--tasks", text])).tasks
    assert first == TaskSpec(
        kind="expression", columns=("expression",), classes=("anger", "joy"), label_smoothing=0.1, class_weights=(1, 2)
    )
    assert second == TaskSpec(kind="au", columns=("AU1",), threshold=2.0, pos_weight="balanced", per_frame=True)


@pytest.mark.gpu
def test_weights_follow_the_outputs_to_a_gpu():
    task = _task(kind="au", columns=("a", "b"), class_weights=(0.5, 1.5))
    targets, outputs = task.encode(_rows([1, 0], [0, 1])), torch.randn(2, 2)
    expected = task.loss(outputs, targets)
    torch.testing.assert_close(task.loss(outputs.cuda(), targets.to("cuda")).cpu(), expected)
