"""``ssl-affect convert``: an official checkpoint becomes a released folder."""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ssl_affect import __version__
from ssl_affect.backbones.locate import store
from ssl_affect.backbones.release import write_release
from ssl_affect.backbones.table import Backbone, get_backbone, list_backbones
from ssl_affect.checkpoint import Weights, WeightsConfig, load_strict
from ssl_affect.convert import SOURCES, convert_state_dict
from ssl_affect.convert.arch import Architecture, infer_architecture
from ssl_affect.convert.official import OfficialFile, read_official
from ssl_affect.errors import ConfigError
from ssl_affect.files import sha256_file
from ssl_affect.models import create_model, create_pretraining_model
from ssl_affect.recipe import Recipe

_EXAMPLES = """examples:
  ssl-affect convert --from mae_dfer checkpoint-49.pth --name mae_dfer_base.voxceleb2
  ssl-affect convert --from svfap checkpoint-99.pth --out weights/svfap --set stage_depths=[12,6,3]

Weights that are imported under a name are found by it: ssl_affect.from_pretrained("mae_dfer_base.voxceleb2"). The file is
read without running any code in it, and is not changed."""


def main(argv: Sequence[str]) -> int:
    """Runs the command; errors of the user are raised."""
    parser = argparse.ArgumentParser(
        prog="ssl-affect convert",
        description="Imports a checkpoint of the authors' repositories, of pretraining or fine-tuned.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE.pth")
    parser.add_argument("--from", dest="source", required=True, choices=sorted(SOURCES), help="whose weights these are")
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder for the weights")
    parser.add_argument("--name", help="line of the table of weights that fills in recipe and card, or a name of your own;"
                        " without --out the weights are put where names are looked up")  # fmt: skip
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="architecture arguments that the file"
                        " does not show, for instance img_size=224")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace older weights in the same place")
    options = parser.parse_args(list(argv))
    out = options.out
    if out is None:
        if options.name is None:
            raise ConfigError("convert: give --out DIR, or --name NAME to put the weights where names are looked up")
        out = store(options.name)
    config, architecture, file = convert_file(
        options.source, options.file, out, name=options.name, given=parse_set(options.set), force=options.force
    )
    head = f", {config.num_classes} outputs" if config.num_classes else ""
    print(f"{out}: {config.name} ({config.task}{head}), {len(file.state_dict)} tensors, sha256 {config.sha256[:16]}...")
    if file.left_out:
        print(f"left out of the file: {', '.join(file.left_out)}")
    if assumed := {key: value for key, value in architecture.assumed.items() if value is not None}:
        shown = ", ".join(f"{key}={value}" for key, value in assumed.items())
        print(f"assumed, because the file does not say: {shown}; --set changes it")
    if config.recipe is None:
        print("crop recipe: not known; --name with a line of the table of weights sets it")
    named = options.name is not None and out == store(options.name)
    print(f"load it with ssl_affect.from_pretrained({options.name if named else str(out)!r})")
    return 0


def convert_file(
    source: str,
    path: Path,
    out: Path,
    *,
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    force: bool = False,
) -> tuple[WeightsConfig, Architecture, OfficialFile]:
    """Imports an official checkpoint as a released folder.

    Args:
        source: Whose weights these are; :data:`ssl_affect.convert.SOURCES` lists them.
        path: The file of the authors, which is read without running code and never changed.
        out: The new folder.
        name: Line of the table of weights, for recipe and card. None takes the only line that fits a pretraining model.
        given: Architecture arguments that go before what the file shows.
        force: Replace an older released folder.

    Returns:
        The config as written, the architecture with what was assumed, and what the file held.

    Raises:
        CheckpointError: the file is damaged, unsafe, incomplete, of another model, or ``out`` is in the way.
        ConfigError: an argument is unknown, or ``name`` is a line for another model.
    """
    file = read_official(path)
    found = infer_architecture(source, file.state_dict, known_arguments(file.arguments), dict(given or {}))
    converted = convert_state_dict(source, file.state_dict, task=found.task)
    state = {key: _as_float(tensor) for key, tensor in converted.items()}
    _check_fits(found, state, path)
    line = _line(name, found, source)
    config = WeightsConfig(
        name=found.name,
        task=found.task,
        num_classes=found.num_classes,
        arch=found.arch,
        recipe=None if line is None or line.recipe is None else _recipe(line),
        provenance={
            "source": path.name,
            "source_sha256": sha256_file(path),
            "imported_from": source,
            "epoch": file.epoch,
            "clip": _clip(line, found, file.arguments),
            "classes": list(line.classes) if line is not None else [],
            "arguments": _public(file.arguments),
            "assumed": found.assumed,
            "version": __version__,
        },
    )
    return write_release(out, Weights(config, state), force=force, backbone=line), found, file


def known_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Command-line arguments, with the size of the frames from the end of the model's name where it stands only there."""
    known = dict(arguments)
    size = re.search(r"_(\d{2,3})$", str(arguments.get("model", "")))
    if known.get("input_size") is None and size:
        known["input_size"] = int(size[1])
    return known


def parse_set(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words; values are read as YAML, so ``stage_depths=[12,6,3]`` is a list.

    Raises:
        ConfigError: a word is not of this form.
    """
    values = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(
                f"--set {word!r}: architecture arguments are written KEY=VALUE, for instance img_size=224"
            )
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {word!r}: the value cannot be read: {error}") from error
    return values


def _as_float(tensor: Tensor) -> Tensor:
    """Half-precision weights as float32, the type that everything here is tested in; float32 stays as it is."""
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor


def _check_fits(found: Architecture, state: Mapping[str, Tensor], path: Path) -> None:
    with torch.device("meta"):
        if found.task == "pretrain":
            model = create_pretraining_model(found.name, **found.arch)
        else:
            model = create_model(found.name, num_classes=found.num_classes, **found.arch)
        empty = {key: torch.empty_like(tensor, device="meta") for key, tensor in state.items()}
        load_strict(model, empty, path)


def _line(name: str | None, found: Architecture, source: str) -> Backbone | None:
    """The line of the table that these weights belong to."""
    known = set(list_backbones())
    if name is not None and name in known:
        line = get_backbone(name)
        if (line.model, line.task, line.num_classes) != (found.name, found.task, found.num_classes):
            raise ConfigError(
                f"--name {name}: a {line.model} ({line.task}, {line.num_classes} outputs) by the table of weights, the file"
                f" holds a {found.name} ({found.task}, {found.num_classes} outputs); give the name of these weights"
            )
        return line
    if name is not None or found.task != "pretrain":
        return None
    lines = [get_backbone(one) for one in known]
    fitting = [
        one
        for one in lines
        if (one.model, one.task) == (found.name, found.task) and one.by_hand and one.by_hand.source == source
    ]
    return fitting[0] if len(fitting) == 1 and _is_published(fitting[0], found) else None


def _is_published(line: Backbone, found: Architecture) -> bool:
    """Whether the sizes are those of the published model, so that its line in the table can be meant."""
    with torch.device("meta"):
        published: Any = create_pretraining_model(line.model)
        model: Any = create_pretraining_model(found.name, **found.arch)
    sizes = [{name: p.shape for name, p in one.named_parameters()} for one in (published, model)]
    return sizes[0] == sizes[1]


def _recipe(line: Backbone) -> dict[str, Any]:
    values = dict(line.recipe or {})
    if values.get("fixed_crop") is not None:
        values["fixed_crop"] = tuple(values["fixed_crop"])
    try:
        return Recipe(**values).to_dict()
    except TypeError as error:
        raise ConfigError(f"{line.name}: the table's recipe has a field that recipes do not have: {error}") from error


def _clip(line: Backbone | None, found: Architecture, arguments: Mapping[str, Any]) -> dict[str, int]:
    """Frames, stride and size of a clip, as far as they are known."""
    clip = {"num_frames": found.arch["num_frames"], "size": found.arch["img_size"]}
    stride = arguments.get("sampling_rate")
    if isinstance(stride, int) and not isinstance(stride, bool) and stride > 0:
        return clip | {"stride": stride}
    return clip | ({"stride": line.clip["stride"]} if line is not None and "stride" in line.clip else {})


def _public(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without paths, which tell about somebody's machine and not about the weights."""
    return {key: value for key, value in sorted(arguments.items()) if "/" not in str(value) and "\\" not in str(value)}
