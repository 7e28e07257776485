"""ONNX and torch.export files: what they give, what they say about themselves, and that wrong ones are not written."""

import json

import numpy as np
import pytest
import torch

import ssl_affect
from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.data.transforms import prepare_clips
from ssl_affect.errors import CheckpointError, ConfigError, SslAffectError
from ssl_affect.export import TOLERANCES, export_graph
from ssl_affect.export.cli import main
from ssl_affect.export.facts import describe
from ssl_affect.export.graph import load_graph
from ssl_affect.files import sha256_file
from ssl_affect.models.frame_head import FrameHead, frame_outputs
from ssl_affect.recipe import Recipe

SMALL = {"img_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 16, "num_heads": 2}
ARCHS = {
    "mae_dfer_tiny": SMALL | {"depth": 1},
    "svfap_tiny": SMALL | {"num_frames": 8, "stage_depths": [1, 2]},
    "videomae_tiny": SMALL | {"depth": 1},
    "hicmae_tiny": SMALL
    | {"depth": 1, "audio_size": [32, 16], "audio_patch_size": 8, "audio_embed_dim": 16, "audio_depth": 1}
    | {"audio_num_heads": 2, "fusion_depth": 1, "fusion_num_heads": 2},
}
EXPRESSIONS = ("happy", "sad", "fear")
TASKS = [
    TaskOutputs.of(task="expression", kind="expression", names=EXPRESSIONS, activation="softmax").to_dict(),
    TaskOutputs.of(task="frames", kind="va", names=("v", "a"), activation="none", per_frame=True).to_dict(),
    TaskOutputs.of(task="au", kind="au", names=("AU1", "AU12"), activation="sigmoid").to_dict(),
    TaskOutputs.of(task="va", kind="va", names=("valence", "arousal"), activation="none").to_dict(),
]


def released(folder, name, *, tasks=(), num_classes=None, **arch):
    """A released folder of random weights; heads are drawn large, so that differences show."""
    sizes = {per_frame: sum(len(t["names"]) for t in tasks if t["per_frame"] == per_frame) for per_frame in (0, 1)}
    count = sizes[0] if num_classes is None else num_classes
    torch.manual_seed(0)
    model = ssl_affect.create_model(name, num_classes=count, **(ARCHS[name] | arch))
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    config = WeightsConfig(
        name=name,
        task="classify",
        num_classes=count,
        arch=model.spec.arch,
        recipe=Recipe(size=160, sample_rate=22050).to_dict(),
        provenance={"outputs": list(tasks), "clip": {"num_frames": 4, "stride": 3, "size": 32}},
    )
    state = model.state_dict()
    if sizes[1]:
        head = FrameHead(ARCHS[name]["embed_dim"], sizes[1], init_scale=1.0)
        state |= {f"frame_head.{key}": tensor for key, tensor in head.state_dict().items()}
    save_weights(folder, Weights(config, state))
    return folder


def inputs_of(model, batch_size):
    generator = torch.Generator().manual_seed(batch_size + 100)
    examples = model.example_inputs()
    return [None if x is None else torch.randn(batch_size, *x.shape[1:], generator=generator) for x in examples]


def run_onnx(path, inputs):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    fed = {one.name: x.numpy() for one, x in zip(session.get_inputs(), inputs, strict=True)}
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, fed)), strict=True)), session


def close(found, expected, tolerance):
    return (found - expected).abs().max() <= tolerance * expected.abs().max()


def models(*quick):
    """All four; those that are not quick enough, or that another test covers, are slow."""
    return [pytest.param(name, marks=[] if name in quick else pytest.mark.slow) for name in sorted(ARCHS)]


@pytest.mark.parametrize("name", models())
def test_an_onnx_file_gives_the_features_of_the_model_for_any_batch(name, tmp_path):
    folder, out = released(tmp_path / "weights", name), tmp_path / "graph" / "model.onnx"
    facts = export_graph(folder, out, format="onnx")
    model = ssl_affect.from_pretrained(folder)
    for batch_size in (1, 2, 3, 5):
        inputs = inputs_of(model, batch_size)
        found, _ = run_onnx(out, inputs)
        assert list(found) == ["features"]
        with torch.no_grad():
            assert close(found["features"], model(*inputs), TOLERANCES["onnx"])
    assert facts["checked"]["largest_difference"] <= TOLERANCES["onnx"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["model.onnx", "model.onnx.json"]


@pytest.mark.parametrize("name", models("svfap_tiny"))
def test_a_torch_export_program_gives_the_features_of_the_model_for_any_batch(name, tmp_path):
    folder, out = released(tmp_path / "weights", name), tmp_path / "model.pt2"
    export_graph(folder, out, format="torch_export")
    extra = {"ssl_affect.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    assert json.loads(extra["ssl_affect.json"])["model"] == name
    model = ssl_affect.from_pretrained(folder)
    for batch_size in (1, 4):
        inputs = inputs_of(model, batch_size)
        with torch.no_grad():
            assert close(program(*inputs)["features"], model(*inputs), TOLERANCES["torch_export"])


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """Released weights of three tasks, their ONNX file, and what was said about it."""
    root = tmp_path_factory.mktemp("finetuned")
    folder = released(root / "weights", "mae_dfer_tiny", tasks=TASKS)
    return folder, root / "m.onnx", export_graph(folder, root / "m.onnx", format="onnx")


def test_every_task_has_named_outputs(finetuned):
    folder, out, facts = finetuned
    model = ssl_affect.from_pretrained(folder)
    inputs = inputs_of(model, 3)
    found, _ = run_onnx(out, inputs)
    with torch.no_grad():
        logits = model(*inputs)
        features = ssl_affect.from_pretrained(folder, num_classes=0)(*inputs)
    expected = {
        "features": features,
        "expression_logits": logits[:, :3],
        "expression_probabilities": logits[:, :3].softmax(1),
        "frames_values": frame_outputs(model, model.frame_head, *inputs, num_frames=4).detach(),
        "au_logits": logits[:, 3:5],
        "au_probabilities": logits[:, 3:5].sigmoid(),
        "va_values": logits[:, 5:],
    }
    assert list(found) == list(expected) == list(facts["outputs"])
    for name, tensor in expected.items():
        assert close(found[name], tensor, 1e-4), name
    assert facts["outputs"]["expression_probabilities"]["names"] == list(EXPRESSIONS)
    assert facts["outputs"]["frames_values"]["shape"] == ["batch", 4, 2]
    assert facts["outputs"]["va_values"]["names"] == ["valence", "arousal"]


def test_the_file_says_how_to_feed_it(finetuned):
    folder, out, facts = finetuned
    beside = json.loads((out.parent / "m.onnx.json").read_text())
    assert beside == json.loads(json.dumps(facts))
    assert beside["sha256"] == sha256_file(out)
    assert beside["clip"] == {"num_frames": 4, "stride": 3, "size": 32, "stride_is_assumed": False, "fps": 25.0}
    assert beside["inputs"]["video"]["shape"] == ["batch", 3, 4, 32, 32]
    assert beside["recipe"]["size"] == 160

    _, session = run_onnx(out, inputs_of(ssl_affect.from_pretrained(folder), 1))
    said = session.get_modelmeta().custom_metadata_map
    for key in ("inputs", "outputs", "clip", "recipe"):
        assert json.loads(said[f"ssl_affect.{key}"]) == beside[key]
    assert said["ssl_affect.weights_sha256"] == beside["weights_sha256"]
    assert session.get_inputs()[0].shape[1:] == [3, 4, 32, 32]

    # The written normalisation is the one that the suite uses.
    video = beside["inputs"]["video"]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 32, 32, 3), np.uint8)
    by_hand = (pixels / 255 - np.array(video["mean"])) / np.array(video["std"])
    ours = prepare_clips(torch.from_numpy(pixels), None, 32)
    np.testing.assert_allclose(by_hand.transpose(0, 4, 1, 2, 3), ours.numpy(), atol=1e-5)


def test_sound_is_described_by_what_the_weights_say(tmp_path):
    graph, config = load_graph(released(tmp_path / "weights", "hicmae_tiny"))
    facts = describe(graph, config, graph(**graph.example_inputs(2)))
    assert facts["inputs"]["audio"]["shape"] == ["batch", 1, 32, 16]
    assert facts["inputs"]["audio"]["sample_rate"] == 22050


def test_a_head_without_names_gives_plain_logits(tmp_path):
    graph, config = load_graph(released(tmp_path / "weights", "videomae_tiny", num_classes=4))
    facts = describe(graph, config, graph(**graph.example_inputs(2)))
    assert facts["outputs"]["logits"]["shape"] == ["batch", 4]
    assert list(facts["outputs"]) == ["features", "logits"]


def test_a_graph_that_differs_is_not_written(tmp_path, monkeypatch):
    folder = released(tmp_path / "weights", "videomae_tiny")
    monkeypatch.setitem(TOLERANCES, "torch_export", -1.0)  # nothing is as close as that
    with pytest.raises(CheckpointError, match=r"not written, because its output '\w+' differs .* -1 is allowed"):
        export_graph(folder, tmp_path / "m.pt2", format="torch_export")
    assert list(tmp_path.iterdir()) == [folder]


def test_the_command_exports_a_run_and_says_what_it_wrote(tmp_path, capsys):
    model = ssl_affect.create_pretraining_model("videomae_tiny", **ARCHS["videomae_tiny"])
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "global_step": 40,
        "ssl_affect": {"model": "videomae_tiny", "arch": model.spec.arch},
    }
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(content, tmp_path / "run" / "checkpoints" / "last.ckpt")
    out = tmp_path / "m.pt2"
    arguments = [str(tmp_path / "run"), "--format", "torch_export", "--out", str(out)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "float32 [batch, 3, 4, 32, 32]" in said
    assert "batches of 1, 2, 5: largest difference" in said
    assert json.loads((tmp_path / "m.pt2.json").read_text())["provenance"]["step"] == 40
    with pytest.raises(CheckpointError, match=r"exists already; .* --force"):
        main(arguments)


@pytest.mark.parametrize(
    ("format", "name", "match"),
    [
        ("onnx", "m.pt2", r"a file of format onnx ends in \.onnx"),
        ("torch_export", "m.onnx", r"ends in \.pt2"),
        ("tflite", "m.tflite", "choose from onnx, torch_export"),
    ],
)
def test_impossible_wishes_are_refused_before_the_weights_are_read(format, name, match, tmp_path):
    with pytest.raises(ConfigError, match=match):
        export_graph("no such weights", tmp_path / name, format=format)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    import ssl_affect.export.writing as writing

    monkeypatch.setattr(writing, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(SslAffectError, match=r"onnxscript cannot be imported; .*ssl-affect\[onnx\]"):
        export_graph("no such weights", tmp_path / "m.onnx", format="onnx")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "torch_export"])
@pytest.mark.parametrize("name", ["mae_dfer_tiny", "svfap_tiny", "hicmae_tiny", "videomae_tiny"])
def test_tiny_models_at_their_own_size(name, format, tmp_path):
    model = ssl_affect.create_model(name)
    config = WeightsConfig(name=name, task="classify", arch=model.spec.arch)
    save_weights(tmp_path / "weights", Weights(config, model.state_dict()))
    ending = {"onnx": "onnx", "torch_export": "pt2"}[format]
    facts = export_graph(tmp_path / "weights", tmp_path / f"m.{ending}", format=format)
    assert facts["checked"]["batch_sizes"] == [1, 2, 5]
