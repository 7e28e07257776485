"""What backbones of one modality share around their head: replacing it, its small first weights, depths of parameters."""

import re
from typing import Any

import torch
from torch import Tensor, nn


class PooledHead:
    """A linear head on pooled features, of a backbone with ``patch_embed``, ``blocks`` and ``depth``."""

    head: nn.Module
    depth: int
    embed_dim: int
    num_classes: int
    head_init_scale: float

    def reset_classifier(self, num_classes: int) -> None:
        """Replaces the head by a fresh one; 0 removes it."""
        self.num_classes = num_classes
        self.head = nn.Identity()
        if num_classes:
            backbone: Any = self
            like: Tensor = backbone.patch_embed.proj.weight
            self.head = nn.Linear(self.embed_dim, num_classes).to(like)
            nn.init.normal_(self.head.weight, std=0.02 * self.head_init_scale)
            nn.init.zeros_(self.head.bias)

    def _scale_head(self) -> None:
        """Makes freshly drawn weights of the head smaller, so that all classes start out alike."""
        if isinstance(self.head, nn.Linear):
            with torch.no_grad():
                self.head.weight.mul_(self.head_init_scale)

    def no_weight_decay(self, *, reference: bool = False) -> set[str]:
        """Names of parameters that are not decayed besides vectors: none."""
        return set()

    def layer_id(self, name: str) -> int:
        """Depth of a parameter: 0 patch embedding, k + 1 block k, depth + 1 everything else, also between stages."""
        block = re.match(r"blocks\.(\d+)\.", name)
        if block:
            return int(block[1]) + 1
        return 0 if name.startswith("patch_embed.") else self.depth + 1
