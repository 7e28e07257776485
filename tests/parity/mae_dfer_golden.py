"""The fixtures of MAE-DFER and the way between official names and ours, for the parity tests."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ssl_affect

FOLDER = Path(__file__).parents[1] / "golden" / "mae_dfer"
PRETRAIN_ARCH: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "num_frames": 16, "embed_dim": 32, "depth": 2, "num_heads": 2,
    "region_size": (2, 2, 4), "decoder_embed_dim": 24, "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip
CLASSIFIER_ARCH: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "num_frames": 8, "embed_dim": 32, "depth": 2, "num_heads": 2,
    "region_size": (2, 2, 2),
}  # fmt: skip
POOLS = {"region": "region", "local": "org", "all": "all"}  # ours -> the fixtures' word


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
    """The fixtures' pretraining model with the authors' decoder positions."""
    model = ssl_affect.create_pretraining_model(
        "mae_dfer_base", **{"decoder_position_order": "reference", **PRETRAIN_ARCH, **arch}
    )
    model.load_state_dict(ssl_affect.convert_state_dict("mae_dfer", part("pretrain", "w/"), task="pretrain"))
    return model


def classifier(pool: str, **arch: Any) -> nn.Module:
    """The fixtures' classifier."""
    model = ssl_affect.create_model("mae_dfer_base", num_classes=7, pool=pool, **CLASSIFIER_ARCH, **arch)
    model.load_state_dict(ssl_affect.convert_state_dict("mae_dfer", part("finetune", "w/"), task="classify"))
    return model


def to_official(
    values: Mapping[str, Tensor], like: Mapping[str, Tensor], task: Any, source: str = "mae_dfer"
) -> dict[str, Tensor]:
    """Values under our names (gradients, say) under official names and in official shapes.

    Converting only moves numbers, so the converter is sent through with numbered places instead of weights.
    """
    sizes = [tensor.numel() for tensor in like.values()]
    places = torch.arange(sum(sizes)).split(sizes)
    numbered = {name: place.view(like[name].shape) for name, place in zip(like, places, strict=True)}
    flat = torch.full((sum(sizes),), torch.nan)
    for name, place in ssl_affect.convert_state_dict(source, numbered, task=task).items():
        flat[place.flatten()] = values[name].detach().flatten()
    return {name: flat[place] for name, place in numbered.items()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients by our names; zeros where there is none, so that a wrongly missing one shows."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


def assert_close(actual: Tensor, expected: Tensor, label: str = "") -> None:
    """The tolerance that the fixtures were made for."""
    torch.testing.assert_close(
        actual.detach(), expected, atol=1e-5, rtol=1e-5, msg=lambda text: f"{label}: {text}", check_dtype=False
    )
