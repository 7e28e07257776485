"""``ssl-affect models list | info | flops``."""

import argparse
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import yaml

from ssl_affect.errors import ConfigError
from ssl_affect.models import create_model, create_pretraining_model, list_models, model_info, resolve_arch


def main(argv: list[str]) -> int:
    """Runs one of the three; errors of the user are raised as ConfigError."""
    parser = argparse.ArgumentParser(prog="ssl-affect models", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="list | info | flops")
    one = commands.add_parser("list", help="names, clip sizes, parameters and where the models come from")
    one.add_argument("pattern", nargs="?", default="*", help="wildcards, for instance 'mae_dfer*'")
    one.set_defaults(run=_list)
    for name, run, what in (
        ("info", _info, "all architecture arguments of a model and its parameters part by part"),
        ("flops", _flops, "cost of one clip, as backbone and in pretraining"),
    ):
        one = commands.add_parser(name, help=what)
        one.add_argument("name")
        one.add_argument(
            "arch", nargs="*", metavar="KEY=VALUE", help="architecture arguments, for instance img_size=224"
        )
        one.set_defaults(run=run)
        if name == "flops":
            one.add_argument("--num-classes", type=int, default=0, help="outputs of the classifier's head")
            help_ = "masked share in pretraining; for a model that also hears a second one for the sound"
            one.add_argument("--mask-ratio", type=float, nargs="+", default=[0.9], metavar="R", help=help_)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0


def _list(arguments: argparse.Namespace) -> None:
    names = list_models(arguments.pattern)
    if not names:
        raise ConfigError(f"no model matches {arguments.pattern!r}; there are {', '.join(list_models())}")
    rows = []
    backbone: Any
    for name in names:
        with torch.device("meta"):
            backbone, pretraining = create_model(name), create_pretraining_model(name)
            inputs = backbone.example_inputs()
        clip = " + ".join(" x ".join(map(str, x.shape[2:])) for x in inputs)
        rows.append((name, clip, _millions(backbone), _millions(pretraining), model_info(name).origin))
    _print_table(("model", "clip", "backbone", "pretraining", "origin"), rows)


def _info(arguments: argparse.Namespace) -> None:
    name, chosen = arguments.name, _parse_arch(arguments.arch)
    info, arch = model_info(name), resolve_arch(name, "pretrain", chosen)
    model: Any
    with torch.device("meta"):
        model = create_pretraining_model(name, **chosen)
    print(f"{name}: {info.origin}\n")
    print(f"one clip: {model.summary()}\n")
    _print_table(("argument", "value"), [(key, value) for key, value in arch.items()])
    print("\nonly of the backbone: " + ", ".join(f"{k}={v!r}" for k, v in _backbone_only(name).items()) + "\n")
    parts: Counter[str] = Counter()
    for key, parameter in model.named_parameters():
        parts[".".join(key.split(".")[:2])] += parameter.numel()
    rows = [(part, f"{count:,}") for part, count in parts.items()] + [("all", f"{sum(parts.values()):,}")]
    _print_table(("part of the pretraining model", "parameters"), rows)


def _flops(arguments: argparse.Namespace) -> None:
    from ssl_affect.flops import model_cost  # fvcore takes a while to import

    name, chosen = arguments.name, _parse_arch(arguments.arch)
    allowed = {task: resolve_arch(name, task, {}) for task in ("pretrain", "classify")}
    for key in chosen:
        if all(key not in arch for arch in allowed.values()):
            resolve_arch(name, "pretrain", {key: chosen[key]})  # raises with the closest name
    of_backbone = {key: value for key, value in chosen.items() if key in allowed["classify"]}
    of_pretraining = {key: value for key, value in chosen.items() if key in allowed["pretrain"]}
    backbone = model_cost(name, num_classes=arguments.num_classes, **of_backbone)
    pretraining = model_cost(name, task="pretrain", mask_ratio=arguments.mask_ratio, **of_pretraining)
    masked = ", ".join(f"{ratio:.0%}" for ratio in arguments.mask_ratio)
    rows = []
    for what, cost in (("backbone", backbone), (f"pretraining, {masked} masked", pretraining)):
        operators = [cost.by_operator.get(key, 0) for key in ("linear", "attention", "layer_norm")]
        giga = [f"{count / 1e9:.3f}" for count in (cost.flops, *operators)]
        rows.append((what, f"{cost.tokens:,}", f"{cost.parameters:,}", *giga))
    _print_table((name, "encoder tokens", "parameters", "GFLOPs", "linear", "attention", "norms"), rows)
    print("\none clip, forward only; one multiply-add is one FLOP; only visible tokens are embedded in pretraining")


def _backbone_only(name: str) -> dict[str, object]:
    pretraining = resolve_arch(name, "pretrain", {})
    return {key: value for key, value in resolve_arch(name, "classify", {}).items() if key not in pretraining}


def _parse_arch(words: Sequence[str]) -> dict[str, Any]:
    """KEY=VALUE words; values are read as YAML, so ``region_size=[2,5,10]`` is a list."""
    values = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r}: architecture arguments are written KEY=VALUE, for instance img_size=224")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{word!r}: the value cannot be read: {error}") from error
    return values


def _millions(model: torch.nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M"


def _print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    print("\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]]))
