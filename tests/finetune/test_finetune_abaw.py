"""From the owner's folder of s-Aff-Wild2 to the figures of its three tasks: codes, partial labels, one row per frame."""

import json

import numpy as np
import pytest
from finetune_runs import arguments, recipe
from PIL import Image

from ssl_affect.cli import main
from ssl_affect.evaluation import ReadOptions, evaluate, read_predictions
from ssl_affect.evaluation.engine import abaw_multitask
from ssl_affect.protocols import get_protocol

AUS = [f"AU{number}" for number in (1, 2, 4, 6, 7, 10, 12, 15, 23, 24, 25, 26)]
VIDEOS, PICTURES = 6, 14
NO_FACE, NO_LINE, NO_AFFECT = 5, 7, 3  # a picture that is missing, one without labels, one with -5


def line_of(video, picture):
    """Valence and arousal, expression and twelve units of a picture, as the owner writes them."""
    valence = -1 if picture == 1 else round(picture / PICTURES - 0.5, 2)
    affect = ["-5", "-5"] if picture == NO_AFFECT else [str(valence), str(round(video / VIDEOS - 0.5, 2))]
    expression = -1 if picture % 4 == 0 else (picture + video) % 8
    units = [-1] * 12 if picture % 6 == 0 else [(picture + video + k) % 2 for k in range(12)]
    return [*affect, str(expression), *map(str, units)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("owner")
    rows = {"Train_Set/train_set.txt": [], "Validation_Set/validation_set.txt": []}
    for video in range(VIDEOS):
        of_part = rows["Train_Set/train_set.txt" if video < 4 else "Validation_Set/validation_set.txt"]
        folder = root / "cropped_aligned" / f"vid{video}"
        folder.mkdir(parents=True)
        for picture in range(1, PICTURES + 1):
            if picture == NO_FACE:
                continue
            pixels = np.full((112, 112, 3), 12 * picture + video, np.uint8)
            Image.fromarray(pixels).save(folder / f"{picture:05}.jpg")
            if picture != NO_LINE:
                of_part.append(f"vid{video}/{picture:05}.jpg," + ",".join(line_of(video, picture)))
    for name, lines in rows.items():
        path = root / "MTL_Challenge" / name
        path.parent.mkdir(parents=True)
        path.write_text("image,valence,arousal,expression,aus\n" + "\n".join(lines) + "\n")
    return root


@pytest.mark.slow
def test_three_tasks_of_single_frames(root, tmp_path, capsys):
    shards, run = tmp_path / "shards", tmp_path / "run"
    build = [
        "shards",
        "build",
        str(root),
        "--source",
        "abaw_mtl",
        "--out",
        str(shards),
        "--size",
        "32",
        "--workers",
        "1",
    ]
    assert main(build) == 0, capsys.readouterr().err
    classes = list(get_protocol("abaw_mtl").target("expression").classes)
    tasks = [
        {"kind": "expression", "columns": ["expression"], "classes": classes, "per_frame": True},
        {"kind": "au", "columns": AUS, "per_frame": True, "pos_weight": "balanced"},
        {"kind": "va", "columns": ["valence", "arousal"], "per_frame": True, "loss": "ccc"},
    ]
    values = recipe(
        shards,
        model__init_args__tasks=tasks,
        model__init_args__schedule={"steps": 2, "warmup_steps": 0},
        data__split={"protocol": "abaw_mtl", "max_missing": 1.0, "validation_share": 0.3},
        data__batch_size=2,
        data__groups=[],
    )
    assert main(["finetune", *arguments(run, values)]) == 0, capsys.readouterr().err
    results = {}
    for task, names in (("expression", classes), ("au", AUS), ("va", ["valence", "arousal"])):
        found = read_predictions(run / "test" / task / "predictions.csv", task, ReadOptions(names=names))
        assert set(found) == {"validation", "last"}
        results[task] = evaluate(found, dataset="abaw_mtl")
        assert json.loads((run / "test" / task / "report.json").read_text())["dataset"] == "abaw_mtl"
        check_rows(task, found["last"])
    parts = abaw_multitask(results)
    assert parts["p_mtl"] == pytest.approx(parts["p_expr"] + parts["p_va"] + parts["p_au"])
    notes = json.loads((run / "test" / "test.json").read_text())["notes"]
    assert any("the files name no subjects" in note for note in notes), "what is not known is said"


def check_rows(task, run):
    """One row per stored picture that has a label of the task, with that label; -1 is a valence and no expression."""
    pictures = [picture for picture in range(1, PICTURES + 1) if picture != NO_FACE]
    expected = {}
    for video in (4, 5):
        for place, picture in enumerate(pictures):
            if picture == NO_LINE:
                continue
            valence, arousal, expression, *units = line_of(video, picture)
            labels = {"va": [valence, arousal], "expression": [expression], "au": units}[task]
            missing = "-5" if task == "va" else "-1"
            if any(label != missing for label in labels):
                expected[f"vid{video}", place] = [float(label) for label in labels]
    times = sorted(set(run.time.tolist()))
    rows = {}
    for row, key in enumerate(run.ids.tolist()):
        label = [float(run.labels[row])] if task == "expression" else run.labels[row].tolist()
        rows[key.split("-")[0], run.time[row]] = label
    assert len(times) == len({place for _, place in expected})
    places = sorted({place for _, place in expected})
    assert rows == {(video, times[places.index(place)]): label for (video, place), label in expected.items()}
    assert run.fold is not None
