"""What an official file is a model of: read off the shapes of its tensors, then off its command-line arguments.

Shapes are certain. Arguments fill in what shapes do not show (the size of the frames, heads). What neither shows is taken
from the published models and written down as assumed, so that nobody takes a guess for a fact.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ssl_affect.errors import CheckpointError
from ssl_affect.models import list_models, model_info, resolve_arch
from ssl_affect.models.registry import Task

HEAD_SIZE = 64  # of every published model of the four repositories


@dataclass(slots=True)
class Architecture:
    """A model, and where its numbers come from.

    Args:
        name: Name of the model with this architecture, or of the largest of its family, which ``arch`` then changes.
        task: "pretrain" or "classify".
        num_classes: Outputs of the head.
        arch: All architecture arguments.
        assumed: Those that neither the shapes nor the arguments of the file show.
    """

    name: str
    task: Task
    num_classes: int
    arch: dict[str, Any]
    assumed: dict[str, Any] = field(default_factory=dict)


def infer_architecture(
    source: str, state: Mapping[str, Tensor], arguments: Mapping[str, Any], given: Mapping[str, Any]
) -> Architecture:
    """Finds out which model an official state dict belongs to.

    Args:
        source: "mae_dfer", "svfap", "hicmae" or "videomae".
        state: Official names and tensors.
        arguments: Command-line arguments of the run that wrote the file, as far as they are there.
        given: Architecture arguments that the user sets; they go before everything else.

    Raises:
        CheckpointError: tensors that every model of this kind has are missing, or sizes cannot be made out.
        ConfigError: ``given`` has an argument that the model does not have.
    """
    task: Task = "pretrain" if any(name.startswith("encoder_to_decoder") for name in state) else "classify"
    try:
        found, needed = _READERS[source](state, task)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"not a state dict of {source}: {_reason(error)}; is --from right, and the file from an unchanged model?"
        ) from error
    assumed = {}
    for name, unseen in needed.items():
        value = given.get(name, arguments.get(unseen.argument))
        if value is None:
            if unseen.published is None and unseen.why:
                raise CheckpointError(
                    f"{source}: {name} does not show in the file ({unseen.why}) and no published model is like this; set it"
                    f" with --set {name}=[...]"
                )
            assumed[name] = value = unseen.published
        found[name] = value
    head = state.get("head.weight")
    found |= given
    name = _closest_model(source, task, found)
    arch = resolve_arch(name, task, found)
    return Architecture(name, task, 0 if head is None else len(head), arch, assumed)


# --------------------------------------------------------------------------------------------------------------------
# One reader per repository: what the shapes say, and what they do not


@dataclass(frozen=True, slots=True)
class _Unseen:
    """What shapes do not show.

    Args:
        argument: Its name on the authors' command line.
        published: Its value in the published models.
        why: Why there is no published value, where the user must give one.
    """

    argument: str
    published: Any
    why: str = ""


Found = tuple[dict[str, Any], dict[str, _Unseen]]
_FRAMES = {"img_size": _Unseen("input_size", 160), "num_frames": _Unseen("num_frames", 16)}


def _mae_dfer(state: Mapping[str, Tensor], task: Task) -> Found:
    prefix = "encoder." if task == "pretrain" else ""
    found = _tubelets(state, prefix) | _encoder(state, prefix)
    needed = _FRAMES | _heads(num_heads=found["embed_dim"])
    needed |= {"region_size": _Unseen("lg_region_size", None)}  # None: as the published model cuts its grid
    if task == "pretrain":
        # What the authors released gives the tokens their positions in this order; the weights are used to it.
        found |= _decoder(state, "decoder.", "mask_token") | {"decoder_position_order": "reference"}
        needed |= _heads(decoder_num_heads=found["decoder_embed_dim"])
    return found, needed


def _svfap(state: Mapping[str, Tensor], task: Task) -> Found:
    prefix = "encoder." if task == "pretrain" else ""
    found = _tubelets(state, prefix) | _encoder(state, prefix)
    blocks = found.pop("depth")
    crossing = len(_numbers(state, rf"{re.escape(prefix)}blocks\.(\d+)\.cross_attn\.q_bias"))
    stages = len(_numbers(state, rf"{re.escape(prefix)}temporal_downsamples\.(\d+)\.weight"))
    bottlenecks = [len(state[f"{prefix}spatial_downsamples.{i}.mlp.fc2.weight"]) for i in range(stages)]
    found["num_bottleneck_tokens"] = bottlenecks if len(set(bottlenecks)) > 1 else bottlenecks[0]
    found["temporal_kernel_size"] = state[f"{prefix}temporal_downsamples.0.weight"].shape[2]
    # Where one stage ends and the next begins does not show; the published models are 12 + 6 + 3 and 8 + 4 + 2.
    later = {9: [6, 3], 6: [4, 2]}.get(crossing) if stages == 2 else None
    depths = [blocks - crossing, *later] if later else None
    needed = _FRAMES | _heads(num_heads=found["embed_dim"])
    needed |= {"stage_depths": _Unseen("stage_depths", depths, f"{crossing} blocks in {stages} later stages")}
    if task == "pretrain":
        found |= _decoder(state, "decoder.", "mask_token")
        needed |= _heads(decoder_num_heads=found["decoder_embed_dim"])
    elif "norm.weight" in state:
        found["pool"] = "token"
    return found, needed


def _hicmae(state: Mapping[str, Tensor], task: Task) -> Found:
    found = _tubelets(state, "encoder.") | _encoder(state, "encoder.")
    sound = state["encoder_audio.patch_embed.proj.weight"]
    audio = _encoder(state, "encoder_audio.")
    found |= {"audio_embed_dim": len(sound), "audio_patch_size": sound.shape[2], "audio_depth": audio["depth"]}
    found["fusion_depth"] = len(_numbers(state, r"encoder_fusion\.blocks\.(\d+)\.norm1\.bias"))
    needed = _FRAMES | _heads(num_heads=found["embed_dim"], audio_num_heads=len(sound))
    needed |= _heads(fusion_num_heads=found["embed_dim"]) | {"audio_size": _Unseen("audio_size", [256, 128])}
    if task == "pretrain":
        found |= _decoder(state, "decoder.", "mask_token")
        heard = _decoder(state, "decoder_audio.", "mask_token_audio")
        found |= {f"audio_{name}": value for name, value in heard.items()}
        needed |= _heads(decoder_num_heads=found["decoder_embed_dim"])
        needed |= _heads(audio_decoder_num_heads=heard["decoder_embed_dim"])
        skips = found["decoder_depth"] - 1
        published = [3, 6, 9] if (found["depth"], skips) == (10, 3) else None
        needed["skip_layers"] = _Unseen("skip_layers", published, f"{skips} of {found['depth']} blocks")
    return found, needed


def _videomae(state: Mapping[str, Tensor], task: Task) -> Found:
    prefix = "encoder." if task == "pretrain" else ""
    found = _tubelets(state, prefix) | _encoder(state, prefix)
    needed = _FRAMES | {"img_size": _Unseen("input_size", 224)} | _heads(num_heads=found["embed_dim"])
    if task == "pretrain":
        found |= _decoder(state, "decoder.", "mask_token")
        needed |= _heads(decoder_num_heads=found["decoder_embed_dim"])
    return found, needed


_READERS: dict[str, Callable[[Mapping[str, Tensor], Task], Found]] = {
    "hicmae": _hicmae,
    "mae_dfer": _mae_dfer,
    "svfap": _svfap,
    "videomae": _videomae,
}


# --------------------------------------------------------------------------------------------------------------------
# Parts


def _tubelets(state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    weight = state[f"{prefix}patch_embed.proj.weight"]  # [D, 3, frames, height, width]
    width, _, tubelet, patch, _ = weight.shape
    return {"embed_dim": width, "tubelet_size": tubelet, "patch_size": patch}


def _encoder(state: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    depth = len(_numbers(state, rf"{re.escape(prefix)}blocks\.(\d+)\.mlp\.fc1\.bias"))
    hidden, width = state[f"{prefix}blocks.0.mlp.fc1.weight"].shape
    return {"depth": depth, "mlp_ratio": hidden / width}


def _decoder(state: Mapping[str, Tensor], prefix: str, mask_token: str) -> dict[str, Any]:
    width = state[mask_token].shape[2]
    depth = len(_numbers(state, rf"{re.escape(prefix)}blocks\.(\d+)\.mlp\.fc1\.bias"))
    return {"decoder_embed_dim": width, "decoder_depth": depth}


def _numbers(state: Mapping[str, Tensor], pattern: str) -> set[int]:
    return {int(match[1]) for name in state if (match := re.fullmatch(pattern, name))}


def _heads(**widths: int) -> dict[str, _Unseen]:
    """Heads, which do not show: those of the published models, by the width of the tokens."""
    return {name: _Unseen(name, max(1, width // HEAD_SIZE)) for name, width in widths.items()}


def _closest_model(source: str, task: Task, found: Mapping[str, Any]) -> str:
    """The model whose own numbers are exactly these, else the published one of the family, which they then change."""
    names = list_models(f"{source}*")
    known = ("embed_dim", "depth", "stage_depths", "num_heads", "audio_depth", "fusion_depth")
    for name in names:
        arch = resolve_arch(name, task, {})
        if all(_plain(arch[key]) == _plain(found[key]) for key in known if key in arch and key in found):
            return name
    return next(name for name in names if name.endswith("_base") and model_info(name))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"there is no tensor {error.args[0]}"
    return f"its tensors have other shapes ({error})"
