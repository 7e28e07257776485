"""``ssl-affect backbones list | info | download | verify | push``."""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from ssl_affect.backbones.locate import HUB_PREFIX, by_hand_text, home, locate, store
from ssl_affect.backbones.names import CARD_NAME, CONFIG_NAME, SELFTEST_NAME, WEIGHTS_NAME
from ssl_affect.backbones.table import Backbone, get_backbone, list_backbones
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.files import sha256_file

_EXAMPLES = """examples:
  ssl-affect backbones list
  ssl-affect backbones info mae_dfer_base.voxceleb2
  ssl-affect backbones download hf-hub:organisation/name
  ssl-affect backbones verify weights/mine --device cuda --precision bf16
  ssl-affect backbones push weights/mine organisation/name

HF_ENDPOINT names a mirror of the hub, HF_HOME the cache, SSL_AFFECT_HOME where imported weights lie, SSL_AFFECT_TABLE
further tables of weights. `verify` exits with 1 when the weights do not give what they must."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one of the five and returns the exit code; errors of the user are raised."""
    parser = argparse.ArgumentParser(
        prog="ssl-affect backbones",
        description="Released weights: what there is, fetching, checking and publishing them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("list", help="names, and which of them are on this machine")
    one.add_argument("pattern", nargs="?", default="*", help="wildcards, for instance '*.voxceleb2'")
    one.set_defaults(run=_list)
    one = commands.add_parser("info", help="licence, training data, recipe, published figures, where to get it")
    one.add_argument("name", metavar="NAME")
    one.set_defaults(run=_info)
    one = commands.add_parser("download", help="fetch weights into the cache and check their hashes")
    one.add_argument("name", metavar="NAME", help="a name of the table, or hf-hub:organisation/name[@revision]")
    one.set_defaults(run=_download)
    two = commands.add_parser("verify", help="recompute the self-test of weights on this machine")
    two.add_argument("name", metavar="NAME_OR_DIR")
    two.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps, ...")
    two.add_argument("--precision", default="fp32", choices=("fp32", "bf16", "fp16"))
    two.set_defaults(run=_verify)
    for command in (one, two):
        command.add_argument("--offline", action="store_true", help="look into the cache only")
        command.add_argument("--endpoint", help="address of a mirror of the hub")
    one = commands.add_parser("push", help="publish a released folder; refused while its card has open questions")
    one.add_argument("folder", type=Path, metavar="DIR")
    one.add_argument("repo", metavar="ORGANISATION/NAME")
    one.add_argument("--private", action="store_true", help="a repository that is made is not public")
    one.add_argument("--endpoint", help="address of another hub")
    one.set_defaults(run=_push)
    options = parser.parse_args(list(sys.argv[1:] if argv is None else argv))
    return options.run(options)


def _list(options: argparse.Namespace) -> int:
    names = list_backbones(options.pattern)
    folder = home() / "backbones"
    own = [p.name for p in sorted(folder.glob(options.pattern)) if (p / CONFIG_NAME).is_file()]
    own = [name for name in own if name not in names]
    if not names and not own:
        raise ConfigError(f"no weights match {options.pattern!r}; there are {', '.join(list_backbones())}")
    width = max(map(len, [*names, *own]))
    for name in names:
        line = get_backbone(name)
        print(f"{name:{width}}  {_state(line):13}  {line.summary}")
    for name in own:
        print(f"{name:{width}}  {'here':13}  imported on this machine")
    return 0


def _state(line: Backbone) -> str:
    if store(line.name).is_dir():
        return "here"
    return "download" if line.hub else "get by hand"


def _info(options: argparse.Namespace) -> int:
    line = get_backbone(options.name)
    facts = {
        "model": f"{line.model} ({line.task}{f', {line.num_classes} outputs' if line.num_classes else ''})",
        "outputs": ", ".join(line.classes),
        "licence": line.licence,
        "training data": line.training_data,
        "people": line.people,
        "training": line.training,
        "crop recipe": ", ".join(f"{k}={v}" for k, v in (line.recipe or {}).items()) or "not known",
        "clip": ", ".join(f"{k}={v}" for k, v in line.clip.items()),
        "failures": line.failures,
        "contact": line.contact,
        "hub": f"{HUB_PREFIX}{line.hub.repo}" if line.hub else "",
        "on this machine": str(store(line.name)) if store(line.name).is_dir() else "",
    }
    print(f"{line.name}: {line.summary}\n")
    for name, text in facts.items():
        if text:
            print(f"{name:16} {text}")
    if line.results:
        print("\npublished figures")
    for one in line.results:
        low_high = "no interval" if one.interval is None else f"{one.interval[0]:g} to {one.interval[1]:g}"
        print(f"  {one.value:6.2f} {one.metric:8} {low_high:14} {one.data} ({one.source})")
    if line.hub is None and (how := by_hand_text(line)):
        print(f"\nto get it: {how}")
    return 0


def _download(options: argparse.Namespace) -> int:
    path = locate(options.name, offline=options.offline, endpoint=options.endpoint)
    print(f"{options.name}: {path}")
    print(f"{WEIGHTS_NAME}: SHA-256 {sha256_file(path / WEIGHTS_NAME) if path.is_dir() else sha256_file(path)}")
    print(f"load it with ssl_affect.from_pretrained({options.name!r})")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from ssl_affect.backbones.selftest import verify  # brings torch

    path = locate(options.name, offline=options.offline, endpoint=options.endpoint)
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: no released folder; `ssl-affect export` makes one with a self-test out of a run"
        )
    checks = verify(path, device=options.device, precision=options.precision)
    for check in checks:
        found = "shape or values wrong" if math.isinf(check.difference) else f"difference {check.difference:.2e}"
        print(f"{check.name:18} {'ok' if check.passed else 'DIFFERS':8} {found}, allowed {check.tolerance:.0e}")
    matches = all(check.passed for check in checks)
    verdict = "match" if matches else "do NOT match"
    print(f"{options.name}: the weights {verdict} their self-test on {options.device} in {options.precision}")
    return 0 if matches else 1


def _push(options: argparse.Namespace) -> int:
    from ssl_affect.backbones.hub import push
    from ssl_affect.backbones.release import check_publishable

    if not options.folder.is_dir():
        raise CheckpointError(f"{options.folder}: no such folder; give one written by `ssl-affect export`")
    check_publishable(options.folder)
    address, commit = push(options.folder, options.repo, private=options.private, endpoint=options.endpoint)
    print(f"published {', '.join((WEIGHTS_NAME, CONFIG_NAME, SELFTEST_NAME, CARD_NAME))}: {address}")
    digest = sha256_file(options.folder / CONFIG_NAME)
    print(f"for a table of weights:\n  hub: {{repo: {options.repo}, revision: {commit}, config_sha256: {digest}}}")
    return 0
