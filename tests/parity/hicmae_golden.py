"""The fixtures of HiCMAE and the models they were recorded with, for the parity tests."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ssl_affect

FOLDER = Path(__file__).parents[1] / "golden" / "hicmae"
SHARED_ARCH: dict[str, Any] = {
    "img_size": 24, "patch_size": 8, "embed_dim": 32, "num_heads": 2, "audio_size": (64, 32), "audio_patch_size": 8,
    "audio_embed_dim": 32, "audio_num_heads": 2, "fusion_num_heads": 4,
}  # fmt: skip
PRETRAIN_ARCH: dict[str, Any] = SHARED_ARCH | {
    "num_frames": 16, "depth": 5, "audio_depth": 5, "skip_layers": (1, 2, 4), "decoder_embed_dim": 24,
    "decoder_num_heads": 3, "audio_decoder_embed_dim": 16, "audio_decoder_num_heads": 2,
}  # fmt: skip
CLASSIFIER_ARCH: dict[str, Any] = SHARED_ARCH | {"num_frames": 8, "depth": 4, "audio_depth": 4}


@cache
def arrays(name: str) -> dict[str, Tensor]:
    """All arrays of ``golden_{name}.npz``."""
    with np.load(FOLDER / f"golden_{name}.npz") as content:
        return {key: torch.from_numpy(np.asarray(content[key])) for key in content.files}


@cache
def facts(name: str) -> Any:
    """The content of ``{name}.json``."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def part(name: str, prefix: str) -> dict[str, Tensor]:
    """The arrays under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays(name).items() if key.startswith(prefix)}


def pretraining_model(**arch: Any) -> nn.Module:
    """The fixtures' pretraining model."""
    model = ssl_affect.create_pretraining_model("hicmae_base", **{**PRETRAIN_ARCH, **arch})
    model.load_state_dict(ssl_affect.convert_state_dict("hicmae", part("pretrain", "w/"), task="pretrain"))
    return model


def pretraining_inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Video, audio and both masks."""
    golden = arrays("pretrain")
    return golden["in/video"], golden["in/audio"], golden["in/mask_video"], golden["in/mask_audio"]


def classifier(head: dict[str, Tensor] | None = None) -> nn.Module:
    """The fixtures' classifier, or the same trunk with another head."""
    weights = part("finetune", "w/") | (head or {})
    model = ssl_affect.create_model("hicmae_base", num_classes=len(weights["head.weight"]), **CLASSIFIER_ARCH)
    model.load_state_dict(ssl_affect.convert_state_dict("hicmae", weights, task="classify"))
    return model.eval()


def assert_close(actual: Tensor, expected: Tensor, label: str = "", *, atol: float = 2e-6) -> None:
    """Within ``atol`` plus 1e-6 of the largest expected value, as the notes on the fixtures ask for."""
    atol += 1e-6 * expected.abs().max().item()
    torch.testing.assert_close(
        actual.detach(), expected, atol=atol, rtol=0, msg=lambda text: f"{label}: {text}", check_dtype=False
    )
