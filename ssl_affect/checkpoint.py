"""Weights on disk: released folders, and the part of a training checkpoint that is the model.

A released folder holds ``model.safetensors`` and ``config.json``: which model this is, with all architecture arguments,
the crop recipe it was trained on, where it comes from, and the SHA-256 of the weights. Beside them may lie a self-test
and a model card (:mod:`ssl_affect.backbones.release` writes all four). Nothing here unpickles objects: ``.ckpt`` files are
read with ``weights_only=True``.
"""

import json
import os
import pickle
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ssl_affect.backbones.names import CONFIG_NAME, RELEASED_NAMES, WEIGHTS_NAME
from ssl_affect.errors import CheckpointError
from ssl_affect.files import TEMPORARY_SUFFIX, sha256_file, write_json

FORMAT_VERSION = 1
CKPT_KEY = "ssl_affect"  # what our trainer adds to a Lightning checkpoint
FRAME_PREFIX = "frame_head."  # of the head for frames, which lies beside the network in checkpoints and releases
_CKPT_PREFIX = "model."


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsConfig:
    """What ``config.json`` says.

    Args:
        name: Model name, see ``ssl_affect.list_models``.
        task: "pretrain" or "classify".
        num_classes: Outputs of the head, 0 without one.
        arch: Architecture arguments.
        recipe: Crop recipe of the training data (``Recipe.to_dict``), None if it is not known.
        provenance: Where the weights come from: version of ssl-affect, step, fingerprint of the data, source file, ...
        sha256: Hash of ``model.safetensors``; empty until it is written.
        format: Version of this layout.
    """

    name: str
    task: str
    num_classes: int = 0
    arch: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    format: int = FORMAT_VERSION

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: Path) -> Self:
        """Reads what ``asdict`` wrote.

        Raises:
            CheckpointError: a field is unknown or missing, or the format is newer than this version.
        """
        names = {f.name for f in fields(cls)}
        if values.get("format") != FORMAT_VERSION or set(values) != names:
            raise CheckpointError(
                f"{source}: format {values.get('format')}, unknown fields {sorted(set(values) - names)}, missing fields"
                f" {sorted(names - set(values))}; this version of ssl-affect reads format {FORMAT_VERSION}"
            )
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Weights:
    """A state dict with what is known about it."""

    config: WeightsConfig
    state_dict: dict[str, Tensor]

    @property
    def network(self) -> dict[str, Tensor]:
        """Without the head for frames."""
        return {name: tensor for name, tensor in self.state_dict.items() if not name.startswith(FRAME_PREFIX)}

    @property
    def frame_head(self) -> dict[str, Tensor]:
        """The head for frames alone, by its own names; empty for weights without one."""
        names = (name for name in self.state_dict if name.startswith(FRAME_PREFIX))
        return {name.removeprefix(FRAME_PREFIX): self.state_dict[name] for name in names}


def save_weights(
    folder: Path, weights: Weights, *, force: bool = False, complete: Callable[[Path], None] | None = None
) -> WeightsConfig:
    """Writes a released folder; it appears whole or not at all.

    Args:
        folder: Must not exist, unless ``force``.
        weights: Tensors on any device; they are written as they are, without a change of dtype.
        force: Replace an older released folder. Any other folder is still refused.
        complete: Is given the folder while it still has its temporary name, and may put further files of
            :data:`RELEASED_NAMES` into it.

    Returns:
        The config as written, with the hash.

    Raises:
        CheckpointError: the folder is in the way.
    """
    folder = Path(folder)
    _check_target(folder, force)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        tensors = {
            name: t.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, t in weights.state_dict.items()
        }
        save_file(tensors, partial / WEIGHTS_NAME, metadata={"format": "pt"})
        with open(partial / WEIGHTS_NAME, "rb") as stream:
            os.fsync(stream.fileno())
        values = asdict(weights.config) | {"sha256": sha256_file(partial / WEIGHTS_NAME)}
        write_json(partial / CONFIG_NAME, values)
        if complete is not None:
            complete(partial)
        if folder.exists():
            old = folder.with_name(f"{folder.name}.{os.getpid()}.old{TEMPORARY_SUFFIX}")
            os.replace(folder, old)
            os.replace(partial, folder)
            shutil.rmtree(old)
        else:
            os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return WeightsConfig.from_dict(values, folder / CONFIG_NAME)


def load_weights(path: Path) -> Weights:
    """Reads a released folder or a checkpoint of our trainer.

    Args:
        path: A folder with ``model.safetensors`` and ``config.json``, or a ``.ckpt`` file.

    Raises:
        CheckpointError: missing, damaged (hash), unsafe to load, or not ours.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if path.is_file():
        return _load_ckpt(path)
    raise CheckpointError(
        f"{path}: no such file or folder; give a folder written by `ssl-affect export` or a .ckpt of a training run"
    )


def read_pickle(path: Path) -> Any:
    """``torch.load`` on the CPU with ``weights_only=True``; a file that needs more is refused.

    Raises:
        CheckpointError: damaged, or it holds objects that only unsafe unpickling would read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(
            r"GLOBAL (\S+)", str(error)
        )  # torch's own first line advises to load it without this protection
        raise CheckpointError(
            f"{path}: holds objects besides tensors and plain values{f' ({found[1]})' if found else ''}, which are not"
            " loaded because unpickling them can run any code; ask for a file with the weights alone"
        ) from error
    except Exception as error:  # of damaged bytes the reader makes errors of a dozen kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: not a readable PyTorch file ({reason}); copy it again from its source"
        ) from error


def load_strict(model: nn.Module, state_dict: Mapping[str, Tensor], source: object) -> None:
    """Loads weights and accounts for every name and shape.

    Raises:
        CheckpointError: names are missing, left over, or differ in shape; the message lists them.
    """
    wanted = model.state_dict()
    missing = [name for name in wanted if name not in state_dict]
    unknown = [name for name in state_dict if name not in wanted]
    wrong = [
        f"{name} {list(state_dict[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted
        if name in state_dict and state_dict[name].shape != wanted[name].shape
    ]
    if missing or unknown or wrong:
        raise CheckpointError(
            f"{source}: the weights do not fit {type(model).__name__}: missing {_some(missing)}; unknown {_some(unknown)};"
            f" wrong shape {_some(wrong)}; build the model with the architecture arguments of the weights"
        )
    model.load_state_dict(state_dict, strict=True)


def _load_folder(folder: Path) -> Weights:
    config_path, weights_path = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    if not config_path.is_file() or not weights_path.is_file():
        found_names = _some(sorted(p.name for p in folder.iterdir()))
        raise CheckpointError(
            f"{folder}: needs {CONFIG_NAME} and {WEIGHTS_NAME}, has {found_names}; `ssl-affect export RUN --out DIR` writes"
            " such a folder"
        )
    try:
        config = WeightsConfig.from_dict(json.loads(config_path.read_text(encoding="utf-8")), config_path)
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise CheckpointError(
            f"{config_path}: not a JSON object ({error}); copy the folder again from its source"
        ) from error
    if (found := sha256_file(weights_path)) != config.sha256:
        raise CheckpointError(
            f"{weights_path}: SHA-256 is {found}, {CONFIG_NAME} says {config.sha256}; the file is damaged or of another"
            " folder, copy it again from its source"
        )
    try:
        return Weights(config, load_file(weights_path))
    except SafetensorError as error:
        raise CheckpointError(f"{weights_path}: not a safetensors file ({error})") from error


def _load_ckpt(path: Path) -> Weights:
    content = read_pickle(path)
    extra = content.get(CKPT_KEY) if isinstance(content, dict) else None
    if not isinstance(extra, dict) or "state_dict" not in content or not {"model", "arch"} <= set(extra):
        raise CheckpointError(
            f"{path}: not a checkpoint of `ssl-affect pretrain` (it has no {CKPT_KEY!r} entry with the model's name and"
            " arch); weights of the authors go through ssl_affect.convert_state_dict"
        )
    kept = (_CKPT_PREFIX, FRAME_PREFIX)
    state = {n.removeprefix(_CKPT_PREFIX): t for n, t in content["state_dict"].items() if n.startswith(kept)}
    provenance = {
        **(extra.get("provenance") or {}),
        "source": path.name,
        "sha256": sha256_file(path),
        "step": content.get("global_step"),
        "epoch": content.get("epoch"),
        "data_fingerprint": extra.get("data_fingerprint"),
        "version": extra.get("version"),
    }
    config = WeightsConfig(
        name=extra["model"],
        task=extra.get("task", "pretrain"),
        num_classes=extra.get("num_classes", 0),
        arch=dict(extra["arch"]),
        recipe=extra.get("recipe"),
        provenance=provenance,
    )
    return Weights(config, state)


def _check_target(folder: Path, force: bool) -> None:
    if not folder.exists():
        return
    ours = folder.is_dir() and {p.name for p in folder.iterdir()} <= set(RELEASED_NAMES)
    if not force:
        raise CheckpointError(f"{folder} exists already; choose another folder or say --force to replace it")
    if not ours:
        raise CheckpointError(
            f"{folder} holds more than {', '.join(RELEASED_NAMES)}, so it is no released folder and --force does not"
            " replace it; choose another folder"
        )


def _some(names: list[str], limit: int = 8) -> str:
    if not names:
        return "none"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
