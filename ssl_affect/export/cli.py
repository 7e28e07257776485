"""``ssl-affect export``: a released folder out of a run, or ONNX or a ``torch.export`` program out of any weights."""

import argparse
from pathlib import Path

from ssl_affect.export.run import export
from ssl_affect.export.writing import FORMATS, export_graph


def make_parser() -> argparse.ArgumentParser:
    """The arguments of the command."""
    parser = argparse.ArgumentParser(prog="ssl-affect export", description=__doc__)
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder of a run, or a .ckpt file; for a graph also a released folder, a name of `ssl-affect backbones list`,"
        " or hf-hub:organisation/name",
    )
    parser.add_argument(
        "--format",
        choices=("release", *FORMATS),
        default="release",
        help="release: a folder with safetensors, config, self-test and card (default). onnx: a graph for ONNX Runtime."
        " torch_export: a .pt2 program for torch.export.load. Graphs take any batch size and are compared with the model"
        " before they are written",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR_OR_FILE",
        help="new folder of the release, or new file of the graph (.onnx, .pt2); what the graph takes and gives is written"
        " to FILE.json beside it",
    )
    parser.add_argument("--force", action="store_true", help="replace an older export")
    parser.add_argument("--offline", action="store_true", help="graphs: do not use the network to find the weights")
    return parser


def main(argv: list[str]) -> int:
    """Runs the command; errors of the user are raised as SslAffectError."""
    arguments = make_parser().parse_args(argv)
    if arguments.format != "release":
        return _graph(arguments)
    config = export(Path(arguments.source), arguments.out, force=arguments.force)
    step = config.provenance.get("step")
    print(f"{arguments.out}: {config.name} ({config.task}), step {step}, sha256 {config.sha256[:16]}...")
    print(f"load it with ssl_affect.create_model({config.name!r}, pretrained={str(arguments.out)!r})")
    return 0


def _graph(arguments: argparse.Namespace) -> int:
    facts = export_graph(
        arguments.source, arguments.out, format=arguments.format, force=arguments.force, offline=arguments.offline
    )
    print(f"{arguments.out}: {facts['model']}, {facts['bytes'] / 1e6:.1f} MB, sha256 {facts['sha256'][:16]}...")
    for role in ("inputs", "outputs"):
        for name, one in facts[role].items():
            print(f"  {role[:-1]:6} {name:24} {one['dtype']} [{', '.join(map(str, one['shape']))}]  {one['meaning']}")
    checked = facts["checked"]
    print(
        f"  compared with the model for batches of {', '.join(map(str, checked['batch_sizes']))}: largest difference"
        f" {checked['largest_difference']:.2g} of the largest value, allowed {checked['tolerance']:g}"
    )
    print(f"{arguments.out}.json says how to prepare clips, and names the outputs")
    return 0
