"""The fixtures of SVFAP, for the parity tests."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ssl_affect

FOLDER = Path(__file__).parents[1] / "golden" / "svfap"
PRETRAIN_ARCH: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "num_frames": 16, "embed_dim": 32, "stage_depths": (2, 3, 2), "num_heads": 2,
    "num_bottleneck_tokens": (3, 2), "decoder_embed_dim": 24, "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip
CLASSIFIER_ARCH: dict[str, Any] = {k: v for k, v in PRETRAIN_ARCH.items() if "decoder" not in k} | {"num_frames": 8}
# The fixtures' word -> our switches. "official" is what the authors released, "fix_both" is the paper's model.
MODES: dict[str, dict[str, str]] = {
    "official": {"reverse_context": "full_tokens", "upsample": "released"},
    "fix_context": {"reverse_context": "bottleneck", "upsample": "released"},
    "fix_upsample": {"reverse_context": "full_tokens", "upsample": "correct"},
    "fix_both": {},
}


@cache
def arrays(name: str) -> dict[str, Tensor]:
    """All arrays of ``golden_{name}.npz`` that hold numbers."""
    with np.load(FOLDER / f"golden_{name}.npz") as content:
        found = {key: np.asarray(content[key]) for key in content.files}
    return {key: torch.from_numpy(value) for key, value in found.items() if value.dtype.kind != "U"}


def names(name: str, key: str) -> set[str]:
    """An array of names; the fixtures store an empty one as numbers."""
    with np.load(FOLDER / f"golden_{name}.npz") as content:
        return set(content[key].tolist())


@cache
def facts(name: str) -> Any:
    """The content of ``golden_{name}.json``."""
    return json.loads((FOLDER / f"golden_{name}.json").read_text())


def part(name: str, prefix: str) -> dict[str, Tensor]:
    """The arrays under a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in arrays(name).items() if key.startswith(prefix)}


def pretraining_model(**arch: Any) -> nn.Module:
    """The fixtures' pretraining model."""
    model = ssl_affect.create_pretraining_model("svfap_base", **{**PRETRAIN_ARCH, **arch})
    model.load_state_dict(ssl_affect.convert_state_dict("svfap", part("pretrain", "w/"), task="pretrain"))
    return model


def classifier(fixture: str, **arch: Any) -> nn.Module:
    """The fixtures' classifier: "finetune" (mean pooling) or "finetune_cls" (the first token)."""
    pool = {"finetune": "avg", "finetune_cls": "token"}[fixture]
    model = ssl_affect.create_model("svfap_base", num_classes=7, pool=pool, **CLASSIFIER_ARCH, **arch)
    model.load_state_dict(ssl_affect.convert_state_dict("svfap", part(fixture, "w/"), task="classify"))
    return model


def assert_close(actual: Tensor, expected: Tensor, label: str = "") -> None:
    """The tolerance that the fixtures ask for, for outputs."""
    torch.testing.assert_close(
        actual.detach(), expected, atol=2e-5, rtol=0, msg=lambda text: f"{label}: {text}", check_dtype=False
    )


def assert_loss(actual: Tensor, expected: Tensor | float, label: str = "") -> None:
    """The tolerance that the fixtures ask for, for losses."""
    assert actual.item() == pytest.approx(float(expected), abs=1e-6), label


def assert_norms(gradients: dict[str, Tensor], norms: dict[str, Tensor]) -> None:
    """The tolerance that the fixtures ask for, for the gradient norms of all parameters.

    The last bias of a bottleneck's scores adds the same to every score of a softmax; its gradient is rounding noise.
    """
    assert gradients.keys() == norms.keys()
    for name, norm in norms.items():
        assert gradients[name].norm().item() == pytest.approx(norm.item(), rel=1e-4, abs=1e-7), name
