"""How much of a backbone is trained, and what is put on top of it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune.lora import add_lora
from ssl_affect.errors import ConfigError

FROZEN = ("linear", "attentive", "knn")  # features are computed once; see finetune.frozen


@dataclass(frozen=True, kw_only=True)
class TuningSpec:
    """What is trained.

    Args:
        mode: ``full`` trains everything; ``last_k`` the last blocks and what follows them; ``lora`` low-rank adapters in
            all attention, and the head; ``linear``, ``attentive`` and ``knn`` leave the backbone as it is and read its
            features, which are computed once.
        last_k: Blocks that ``last_k`` trains.
        rank: Rank of the adapters of ``lora``.
        alpha: Scale of the adapters of ``lora``.
        cache: Folder of cached features for the frozen modes; null keeps them in the run's folder.
    """

    mode: Literal["full", "last_k", "lora", "linear", "attentive", "knn"] = "full"
    last_k: int | None = None
    rank: int | None = None
    alpha: float | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        needs = {"last_k": ("last_k",), "lora": ("rank", "alpha")}.get(self.mode, ())
        for name in ("last_k", "rank", "alpha"):
            if (getattr(self, name) is not None) != (name in needs):
                wanted = f"needs {', '.join(needs)}" if needs else "takes none of last_k, rank and alpha"
                raise ConfigError(f"tuning: mode={self.mode} with {name}={getattr(self, name)}; this mode {wanted}")

    @property
    def cache_folder(self) -> Path | None:
        """The folder of cached features, if one is given."""
        return None if self.cache is None else Path(self.cache)

    @property
    def frozen(self) -> bool:
        """Whether the backbone stays as it is."""
        return self.mode in FROZEN


def apply_tuning(model: Any, spec: TuningSpec) -> None:
    """Freezes what is not trained and adds what the mode needs; the head is always trained.

    Raises:
        ConfigError: the model has fewer blocks than ``last_k`` says.
    """
    if spec.mode == "lora" and spec.rank is not None and spec.alpha is not None:
        add_lora(model, rank=spec.rank, alpha=spec.alpha)
    elif spec.mode == "last_k" and spec.last_k is not None:
        if not 0 < spec.last_k <= model.depth:
            raise ConfigError(
                f"tuning: last_k={spec.last_k}; the model has {model.depth} blocks, say 1 to {model.depth}"
            )
        _train_last(model, spec.last_k)
    elif spec.frozen:
        model.requires_grad_(False)
    for name in ("head", "fc_norm"):
        getattr(model, name).requires_grad_(True)


def _train_last(model: Any, count: int) -> None:
    """Freezes all but the last blocks, and the norms and layer weights that come after them.

    Layer-wise decay treats as the head what may lie below the last blocks (region tokens, steps between stages, norms of
    encoders before a fusion); these stay as they are.
    """
    names = [name for name, _ in model.named_parameters()]
    blocks = {name for name in names if model.depth + 1 - count <= model.layer_id(name) <= model.depth}
    for name, parameter in model.named_parameters():
        norm = re.match(r"(.*)norm\.", name) if model.layer_id(name) > model.depth else None
        follows = norm is not None and any(block.startswith(f"{norm[1]}blocks.") for block in blocks)
        parameter.requires_grad_(name in blocks or follows or name.startswith("layer_weights."))


def frame_width(model: Any) -> int:
    """Width of the tokens that a head for frames reads.

    Raises:
        ConfigError: the model does not see, or its tokens have no time.
    """
    grid, width = getattr(model, "grid", None), model.spec.arch.get("embed_dim")
    if grid is None or width is None or getattr(model, "modality", "both") == "audio":
        raise ConfigError(
            f"tasks: per_frame=true needs a model that sees and has tokens with a time, {model.spec.name} with"
            f" modality={getattr(model, 'modality', 'video')!r} has none; use labels of clips, or another model"
        )
    return int(width)


def freeze_pooling(model: Any) -> None:
    """What only outputs for clips pass through is frozen in a model without any: its gradient would be waited for."""
    parts = [model.fc_norm, getattr(model, "layer_weights", None)]
    if (fusion := getattr(model, "fusion", None)) is not None:
        parts += [fusion.audio_blocks[-1], fusion.audio_norm]
    for part in parts:
        if part is not None:
            part.requires_grad_(False)
