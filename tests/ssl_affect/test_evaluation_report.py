"""Reports and the command: one self-contained page, valid JSON, and every section that the predictions allow."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from ssl_affect.cli import main
from ssl_affect.errors import PredictionsError
from ssl_affect.evaluation.cases import principal_components, read_embeddings, timelines, worst_clips
from ssl_affect.evaluation.engine import evaluate
from ssl_affect.evaluation.intervals import Bootstrap
from ssl_affect.evaluation.predictions import make_predictions
from ssl_affect.evaluation.report import write_report


def write_expression(path, seed=0, selections=("validation", "last")):
    rng = np.random.default_rng(seed)
    rows = ["id,label,prob_happy,prob_sad,prob_fear,fold,subject,sex,selection"]
    for selection in selections:
        for i in range(90):
            label, scores = i % 3, np.random.default_rng(i).random(3) + 0.3 * rng.random(3)
            scores[label] += 0.5
            cells = ",".join(f"{v:.4f}" for v in scores / scores.sum())
            rows.append(f"{i:04d},{label},{cells},{i % 5},s{i % 30},{'FM'[i % 2]},{selection}")
    path.write_text("\n".join(rows))
    return path


def frames():
    time = np.tile(np.arange(50) / 25, 4)
    labels = np.stack([np.sin(time), np.cos(time)], 1)
    labels[3] = -5
    noise = np.repeat([0.0, 0.1, 0.2, 0.5], 50)[:, None]
    return make_predictions(
        "va",
        ids=np.repeat(["v0", "v1", "v2", "v3"], 50),
        time=time,
        labels=labels,
        predictions=np.where(labels < -1, 0, labels) + noise,
        names=("valence", "arousal"),
    )


def test_the_command_prints_both_numbers_and_writes_one_self_contained_page(tmp_path, capsys):
    ours, other = (write_expression(tmp_path / f"{s}.csv", seed=s) for s in (0, 1))
    embeddings = tmp_path / "e.npz"
    np.savez(
        embeddings, ids=np.array([f"{i:04d}" for i in range(90)]), embeddings=np.random.default_rng(0).random((90, 5))
    )
    arguments = [
        "evaluate",
        str(ours),
        "--task",
        "expression",
        "--against",
        str(other),
        "--embeddings",
        str(embeddings),
    ]
    assert (
        main(
            [
                *arguments,
                "--resamples",
                "100",
                "--dataset",
                "dfew",
                "--classes",
                "happy,sad,fear",
                "--out",
                str(tmp_path / "r"),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    for words in ("honest: uar", "paper's protocol: uar", "mean of folds", "baseline majority", "against", "by sex"):
        assert words in printed
    page = (tmp_path / "r" / "report.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    sections = "Figures Against Trivial Published Per Reliability Folds By Worst Map How".split()
    assert [h.split()[0] for h in re.findall(r"<h2>(.*?)</h2>", page)] == sections
    assert page.count("data:image/png") == 4
    report = json.loads((tmp_path / "r" / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (report["honest"], report["paper"], report["primary"]) == ("validation", "last", "uar")
    assert set(report["facts"]) == {"ssl-affect", ours.name}
    assert len(report["runs"]["last"]["confusion"]) == 3


def test_a_second_call_writes_the_same_bytes(tmp_path):
    table = frames()
    pages = []
    for name in ("a", "b"):
        result = evaluate(table, bootstrap=Bootstrap(resamples=100))
        pages.append([p.read_bytes() for p in write_report(result, tmp_path / name, predictions=table)])
    assert pages[0] == pages[1]


def test_frames_get_timelines_of_the_worst_middle_and_best_video(tmp_path):
    table = frames()
    lines = timelines(table)
    assert [line.video for line in lines] == ["v3", "v2", "v0"] or [line.video for line in lines] == ["v3", "v1", "v0"]
    assert lines[0].error > lines[-1].error
    assert np.isnan(lines[-1].labels).sum() == 0  # the wholly unlabelled frame is gone
    assert len(lines[-1].time) == 49
    result = evaluate(table, bootstrap=Bootstrap(resamples=100))
    _, page = write_report(result, tmp_path, predictions=table)
    assert "Timelines" in page.read_text()


def test_worst_clips_are_the_worst_one_per_video():
    worst = worst_clips(frames())
    assert len(worst) == 3  # v0 is right everywhere
    assert worst[0].sample_id.startswith("v3 at ")
    table = make_predictions(
        "expression",
        ids=["sure and wrong", "unsure and wrong", "right"],
        labels=np.array([0, 0, 1]),
        names=("happy", "sad"),
        scores=np.array([[0.05, 0.95], [0.45, 0.55], [0.1, 0.9]]),
    )
    assert [clip.sample_id for clip in worst_clips(table)] == ["sure and wrong", "unsure and wrong", "right"]
    assert worst_clips(table)[0].predicted == "sad (0.95)"


def test_clips_without_probabilities_or_errors():
    table = make_predictions("expression", ids=["a"], labels=np.array([0]), names="xy", predictions=np.array([0]))
    assert worst_clips(table) == []


def test_principal_components_find_the_plane():
    rng = np.random.default_rng(0)
    plane, basis = rng.normal(size=(200, 2)) * [3, 1], np.linalg.qr(rng.normal(size=(10, 10)))[0][:2]
    points, shares = principal_components(plane @ basis + 5)
    assert shares.sum() == pytest.approx(1)
    assert abs(np.corrcoef(points[:, 0], plane[:, 0])[0, 1]) > 0.98
    flat, shares = principal_components(rng.normal(size=(20, 1)))
    assert flat.shape == (20, 2)
    assert shares[1] == 0


def test_embeddings_are_matched_by_id_and_must_be_complete(tmp_path):
    table = make_predictions(
        "expression", ids=["b", "a"], labels=np.array([0, 1]), names="xy", predictions=np.array([0, 1])
    )
    (tmp_path / "e.csv").write_text("id,d0,d1\nb,1,2\na,3,4\nz,5,6\n")
    assert read_embeddings(tmp_path / "e.csv", table).tolist() == [[3, 4], [1, 2]]
    (tmp_path / "short.csv").write_text("id,d0\nb,1\n")
    with pytest.raises(PredictionsError, match="1 samples have no embedding, among them a"):
        read_embeddings(tmp_path / "short.csv", table)
    np.savez(tmp_path / "o.npz", ids=np.array([{"a": 1}], dtype=object), embeddings=np.zeros((1, 2)))
    with pytest.raises(PredictionsError, match=r"not an \.npz"):
        read_embeddings(tmp_path / "o.npz", table)


@pytest.mark.parametrize("task", ["au", "multilabel", "au-intensity", "regression"])
def test_every_task_has_a_report(tmp_path, task):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (40, 2)).astype(float)
    table = make_predictions(
        task, ids=np.arange(40).astype(str), labels=labels, predictions=rng.random((40, 2)), names=("AU1", "AU2")
    )
    result = evaluate(table, bootstrap=Bootstrap(resamples=100))
    report, page = write_report(result, tmp_path, predictions=table, embeddings=rng.random((40, 3)))
    assert json.loads(report.read_text())["task"] == task
    assert ("ORACLE" in page.read_text()) == (task in ("au", "multilabel"))


def test_the_code_in_the_guide_runs_as_it_stands(capsys):
    guide = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", guide, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/evaluation.md", "exec"), {})
    assert re.match(r"uar \d\d\.\d\d \[.*\] \(last\)", capsys.readouterr().out)


def test_errors_are_one_message_and_exit_code_two(tmp_path, capsys):
    path = write_expression(tmp_path / "p.csv")
    assert main(["evaluate", str(path), "--task", "expression", "--selection", "last"]) == 2
    assert "--selection last is refused" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "no.csv"), "--task", "va"]) == 2
    assert "no such file" in capsys.readouterr().err
