"""What somebody who runs a graph without this package has to know: inputs, normalisation, crop recipe, outputs.

All of it is JSON-ready. It is written into the file of the graph and, with the file's hash, beside it.
"""

from typing import Any

from torch import Tensor

from ssl_affect import __version__
from ssl_affect.checkpoint import WeightsConfig
from ssl_affect.export.graph import FEATURES, Graph, Output
from ssl_affect.types import IMAGENET_MEAN, IMAGENET_STD, AudioSpec

FORMAT_VERSION = 1
_PUBLISHED_STRIDE = 4  # of all published pretraining, at 25 frames a second


def describe(graph: Graph, config: WeightsConfig, outputs: dict[str, Tensor]) -> dict[str, Any]:
    """Everything about a graph except the file that it is in.

    Args:
        graph: The graph.
        config: What its weights say about themselves.
        outputs: What the graph gives for any inputs, which show the shapes.

    Returns:
        ``inputs`` and ``outputs`` by name with dtype, shape (the first axis is ``batch``) and meaning; ``clip``,
        ``recipe`` and where the weights are from.
    """
    inputs = graph.example_inputs(1)
    meaning = {"video": _video, "audio": _audio}
    arch = graph.model.spec.arch
    return {
        "format": FORMAT_VERSION,
        "model": config.name,
        "ssl_affect_version": __version__,
        "weights_sha256": config.sha256 or config.provenance.get("sha256", ""),
        "provenance": config.provenance,
        "arch": arch,
        "clip": _clip(arch, config) if "video" in inputs else None,
        "recipe": config.recipe,
        "inputs": {name: _tensor(x) | meaning[name](arch, config) for name, x in inputs.items()},
        "outputs": {name: _tensor(outputs[name]) | said for name, said in _outputs(graph).items()},
    }


def _tensor(x: Tensor) -> dict[str, Any]:
    return {"dtype": "float32", "shape": ["batch", *x.shape[1:]]}


def _clip(arch: dict[str, Any], config: WeightsConfig) -> dict[str, Any]:
    """Frames of a clip; weights that do not say how far apart these were get the published stride, and that is said."""
    said = config.provenance.get("clip") or {}
    return {
        "num_frames": arch["num_frames"],
        "size": arch["img_size"],
        "stride": said.get("stride", _PUBLISHED_STRIDE),
        "stride_is_assumed": "stride" not in said,
        "fps": (config.recipe or {}).get("fps"),
    }


def _video(arch: dict[str, Any], config: WeightsConfig) -> dict[str, Any]:
    return {
        "meaning": "RGB frames of a cropped face, [batch, channel, time, row, column]",
        "normalisation": "(pixel / 255 - mean) / std, per channel",
        "mean": list(IMAGENET_MEAN),
        "std": list(IMAGENET_STD),
    }


def _audio(arch: dict[str, Any], config: WeightsConfig) -> dict[str, Any]:
    rows, bins = arch["audio_size"]
    rate = (config.recipe or {}).get("sample_rate", AudioSpec().sample_rate)
    known = {"sample_rate": rate, **(config.provenance.get("sound") or {})}
    spec = AudioSpec(**known | {"num_frames": rows, "num_mel_bins": bins})
    return {
        "meaning": "log-mel spectrogram of the clip's sound, [batch, 1, time, mel]; every clip has sound",
        "front_end": "Kaldi fbank: frames of 25 ms, mean removed, pre-emphasis 0.97, Hann window, natural logarithm",
        "sample_rate": spec.sample_rate,
        "frame_shift_ms": spec.frame_shift_ms,
        "normalisation": "(log power - mean) / (2 * std)",
        "mean": spec.mean,
        "std": spec.std,
    }


def _outputs(graph: Graph) -> dict[str, dict[str, Any]]:
    features = {"meaning": "what the model gives before its head, as `ssl-affect extract` writes it"}
    return {FEATURES: features} | {output.name: _output(output) for output in graph.outputs}


def _output(output: Output) -> dict[str, Any]:
    if output.task is None:
        return {"meaning": "what the head gives; the weights do not say what it means"}
    if output.apply == "none" and output.task.activation != "none":
        names = {"task": output.task.task, "names": list(output.task.names)}
        return {"meaning": "what the head gives, before its " + output.task.activation, **names}
    meaning = {
        "softmax": "probabilities, of which one holds",
        "sigmoid": "sigmoids, each by itself",
        "none": "values",
    }[output.apply]
    return {"meaning": meaning, **output.task.to_dict()}
