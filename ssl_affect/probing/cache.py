"""Features on disk: computed once for a backbone and some data, reused by whatever asks for the same.

A folder per combination of backbone, data and clip settings holds ``description.json`` and pieces of at most some
hundreds of clips, each whole or absent and with the hash of its content. So an interrupted extraction goes on where it
was, other folds of the same data find what they need, and a damaged piece is noticed, removed and made again.
"""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ssl_affect.files import sha256_bytes, write_bytes, write_json

logger = logging.getLogger(__name__)

DESCRIPTION_NAME = "description.json"


class FeatureCache:
    """Features of single samples, by their numbers in a shard set.

    Args:
        folder: Folder of all caches.
        description: What decides the features, in plain values; equal descriptions share a cache.
    """

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        text = json.dumps(description, sort_keys=True, separators=(",", ":"))
        self.key = sha256_bytes(text.encode())[:24]
        self.folder = Path(folder) / f"{description.get('model', 'features')}-{self.key}"
        self.description = dict(description)

    def read(self, samples: Iterable[int]) -> dict[int, Tensor]:
        """What is there of some samples: number -> features. Damaged pieces are removed with a warning."""
        wanted, found = set(map(int, samples)), {}
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                found.update(_read_piece(path, wanted))
            except (SafetensorError, OSError, ValueError, KeyError) as error:
                logger.warning("%s is damaged (%s); it is removed and computed again", path, error)
                path.unlink(missing_ok=True)
        return found

    def write(self, features: Mapping[int, Tensor]) -> Path:
        """Adds a piece, which appears whole or not at all; the first one also says what it belongs to."""
        if not (self.folder / DESCRIPTION_NAME).is_file():
            write_json(self.folder / DESCRIPTION_NAME, self.description)
        numbers = sorted(features)
        tensors = {"samples": torch.tensor(numbers), "values": torch.stack([features[n] for n in numbers])}
        path = self.folder / f"{sha256_bytes(repr(numbers).encode())[:16]}.safetensors"
        write_bytes(path, save(tensors, metadata={"sha256": _hash(tensors)}))
        return path


def state_hash(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights and stored buffers, in hexadecimal."""
    return _hash(model.state_dict())


def _read_piece(path: Path, wanted: set[int]) -> dict[int, Tensor]:
    with safe_open(path, framework="pt") as file:
        samples = file.get_tensor("samples").tolist()
        if wanted.isdisjoint(samples):
            return {}
        values = file.get_tensor("values")
        expected = (file.metadata() or {}).get("sha256")
    if _hash({"samples": torch.tensor(samples), "values": values}) != expected or len(samples) != len(values):
        raise ValueError("the hash of its content is another")
    return {number: row for number, row in zip(samples, values, strict=True) if number in wanted}


def _hash(tensors: Mapping[str, Tensor]) -> str:
    lines = []
    for name, tensor in sorted(tensors.items()):
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest = sha256_bytes(np.ascontiguousarray(content).tobytes())
        lines.append(f"{name} {tensor.dtype} {list(tensor.shape)} {digest}")
    return sha256_bytes("\n".join(lines).encode())
