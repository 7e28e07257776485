"""The self-test of released weights: clips made from a seed, and what the model must answer to them.

``selftest.safetensors`` lies beside the weights and holds the features of two made-up clips, the logits of a classifier,
and for a pretraining model its loss and its predictions under a stored mask, so that every part of the weights takes part.
The clips are not stored: they follow from a seed through a generator whose stream is guaranteed, and their hash is
compared, so that a difference is one of the model and not of the input.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ssl_affect import __version__
from ssl_affect.backbones.names import SELFTEST_NAME
from ssl_affect.checkpoint import load_strict, load_weights
from ssl_affect.data.sampling import Draws
from ssl_affect.devices import usable_device
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.files import sha256_bytes, write_bytes
from ssl_affect.models import create_model, create_pretraining_model, from_pretrained
from ssl_affect.models.frame_head import frame_outputs
from ssl_affect.types import IMAGENET_MEAN, IMAGENET_STD

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Largest difference, as a share of the largest expected value. Measured on one CPU with random weights, tiny and published
# sizes: fp32 0 (1e-7 for a loss), whatever the number of threads; bf16 up to 0.01; fp16 up to 0.0011. Other processors and
# GPUs add up numbers in another order, for which the rest is room; they were not measured.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.01}
NUM_CLIPS = 2
FORMAT = "1"
_SEED = 0
_STREAM = 71  # keeps these draws apart from those of training
_MASKED = 0.5  # share that is masked: every encoder can take it
_COARSE = 8  # side of the blocks that the clips are made of, in pixels


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison.

    Args:
        name: "features", "logits", "loss" or "prediction...".
        difference: Largest difference as a share of the largest expected value; infinite where shapes differ or a value is
            not finite.
        tolerance: What is allowed.
    """

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is allowed."""
        return self.difference <= self.tolerance


def selftest_inputs(example: Sequence[Tensor | None], seed: int = _SEED) -> list[Tensor | None]:
    """Made-up clips of the shapes of ``model.example_inputs()``, the same on every machine.

    Blocks of 8 x 8 pixels with noise on them, so that places, channels and times all differ. Pictures (3 channels) are
    ImageNet-normalised, spectrograms lie in -2 to 2.

    Args:
        example: One clip, [1, 3, T, H, W] or [1, 1, time, mel]; None where a model has no such input.
        seed: Of the clips.

    Returns:
        float32 [2, ...] on the CPU, None where ``example`` has None.
    """
    return [None if one is None else _made_up(tuple(one.shape[1:]), seed, i) for i, one in enumerate(example)]


def write_selftest(folder: Path) -> None:
    """Computes on the CPU, in float32, what the weights in a released folder give, and writes it beside them.

    Raises:
        CheckpointError: the weights cannot be loaded, or give something that is not finite.
    """
    config = load_weights(folder).config
    outputs, masks, inputs_sha256 = _compute(folder, "cpu", "fp32", None)
    bad = [name for name, tensor in outputs.items() if not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{folder}: the model gives values that are not finite ({', '.join(bad)}); the weights are bad, export others"
        )
    metadata = {
        "format": FORMAT,
        "seed": str(_SEED),
        "weights_sha256": config.sha256,
        "inputs_sha256": inputs_sha256,
        "made_with": f"ssl-affect {__version__}, torch {torch.__version__}, CPU, float32",
        "outputs": json.dumps(sorted(outputs)),
    }
    write_bytes(folder / SELFTEST_NAME, save({**outputs, **masks}, metadata))


def verify(folder: Path, *, device: str = "cpu", precision: Precision = "fp32") -> list[Check]:
    """Computes again what the weights of a released folder give and compares it with what was stored.

    Args:
        folder: A released folder; the hash of its weights is checked too.
        device: "cpu", "cuda", ...
        precision: "fp32", or autocast to "bf16" or "fp16".

    Raises:
        ConfigError: the precision or the device is unknown.
        CheckpointError: there is no self-test, it is of other weights, or the weights are damaged.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is unknown; choose from {', '.join(PRECISIONS)}")
    config = load_weights(folder).config
    metadata, stored = _read(folder)
    if metadata["weights_sha256"] != config.sha256:
        raise CheckpointError(
            f"{folder / SELFTEST_NAME} belongs to weights with SHA-256 {metadata['weights_sha256']}, here are"
            f" {config.sha256}; copy the whole folder again from its source"
        )
    names = json.loads(metadata["outputs"])
    masks = {name: tensor for name, tensor in stored.items() if name not in names}
    outputs, _, inputs_sha256 = _compute(folder, device, precision, masks, seed=int(metadata["seed"]))
    if inputs_sha256 != metadata["inputs_sha256"]:
        raise CheckpointError(
            f"{folder}: this machine makes other clips from seed {metadata['seed']} than the one that released the weights;"
            " nothing can be said about the model. Please report your NumPy version"
        )
    tolerance = TOLERANCES[precision]
    return [Check(name, _difference(outputs.get(name), stored[name]), tolerance) for name in names]


def _compute(
    folder: Path, device: str, precision: str, masks: dict[str, Tensor] | None, *, seed: int = _SEED
) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """Outputs by name, masks by name, and the hash of the clips."""
    weights = load_weights(folder)
    config = weights.config
    model = create_model(config.name, pretrained=folder, num_classes=0)
    place = usable_device(device)
    clips = selftest_inputs(model.example_inputs(), seed)  # type: ignore[operator]
    digest = sha256_bytes(b"".join(clip.numpy().tobytes() for clip in clips if clip is not None))
    moved = [None if clip is None else clip.to(place) for clip in clips]
    dtype = PRECISIONS[precision]
    autocast: Any = nullcontext() if dtype is None else torch.autocast(place.type, dtype=dtype)
    outputs: dict[str, Tensor] = {}
    with torch.no_grad(), autocast:
        outputs["features"] = model.to(place).eval()(*moved)
        if config.num_classes:
            model = create_model(config.name, pretrained=folder, num_classes=config.num_classes)
            outputs["logits"] = model.to(place).eval()(*moved)
        if weights.frame_head:
            network: Any = from_pretrained(folder).to(place)
            count = network.spec.arch["num_frames"]
            outputs["frame_logits"] = frame_outputs(network, network.frame_head, *moved, num_frames=count)
        if config.task == "pretrain":
            pretraining: Any = create_pretraining_model(config.name, **config.arch)
            load_strict(pretraining, weights.state_dict, folder)
            masks = _masks(pretraining) if masks is None else masks
            outputs |= _pretraining_outputs(pretraining.to(place).eval(), moved, masks)
    return {name: t.float().cpu().contiguous() for name, t in outputs.items()}, masks or {}, digest


def _pretraining_outputs(model: Any, clips: list[Tensor | None], masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The loss, and the mean over the values of every predicted token, which keeps the file small."""
    here = iter(
        [clip for clip in clips if clip is not None] + [m.expand(NUM_CLIPS, -1) for _, m in sorted(masks.items())]
    )
    # A model of one modality takes None for the input and the mask of the other.
    given = [None if example is None else next(here) for example in model.example_inputs(_MASKED)]
    predictions = model(*given)
    named = {"prediction": predictions} if isinstance(predictions, Tensor) else predictions._asdict()
    outputs = {
        name if name == "prediction" else f"prediction_{name}": p.float().mean(-1)
        for name, p in named.items()
        if p is not None
    }
    return {"loss": model.loss(*given).total.reshape(1), **outputs}


def _masks(model: Any) -> dict[str, Tensor]:
    """Masks [1, N] by names whose order is that of the arguments."""
    inputs = model.example_inputs(_MASKED)
    masks = [x for x in inputs if x is not None and x.dtype == torch.bool]
    return {f"mask_{number}": mask.contiguous() for number, mask in enumerate(masks)}


def _made_up(shape: tuple[int, ...], seed: int, number: int) -> Tensor:
    count = NUM_CLIPS * int(np.prod(shape))
    words = Draws(seed, number, _STREAM).raw(-(-count // 8))
    fine = np.frombuffer(words.astype("<u8").tobytes(), np.uint8)[:count].reshape(NUM_CLIPS, *shape).astype(np.int64)
    rows, columns = (np.arange(size) // _COARSE * _COARSE for size in shape[-2:])
    values = (3 * fine[..., rows, :][..., columns] + fine) / (4 * 255)  # whole numbers up to here: exact everywhere
    if shape[0] == 3:
        mean, std = (np.array(x).reshape(3, 1, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        values = (values - mean) / std
    else:
        values = 4 * values - 2
    return torch.from_numpy(values.astype(np.float32))


def _difference(found: Tensor | None, expected: Tensor) -> float:
    if found is None or found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


def _read(folder: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    path = folder / SELFTEST_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no {SELFTEST_NAME}; folders written by `ssl-affect export` and `ssl-affect convert` have one, so"
            " write it again with this version"
        )
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a safetensors file ({error}); copy the folder again from its source"
        ) from error
    known = {"format", "seed", "weights_sha256", "inputs_sha256", "outputs"} <= metadata.keys()
    if not known or metadata["format"] != FORMAT or not set(json.loads(metadata["outputs"])) <= tensors.keys():
        raise CheckpointError(f"{path}: no self-test of format {FORMAT}; use the version of ssl-affect that wrote it")
    return metadata, tensors
