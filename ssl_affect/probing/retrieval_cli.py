"""``ssl-affect retrieve``: which voice belongs to which face?"""

import argparse
from pathlib import Path
from typing import Any

from ssl_affect.data.samples import LeaveOut
from ssl_affect.data.shardset import ShardSet
from ssl_affect.errors import ConfigError
from ssl_affect.files import write_json

_QUESTIONS = {
    "all": "among all windows",
    "same_speaker": "among windows of the same speaker",
    "same_clip": "among windows of the same clip",
}
_DIRECTIONS = {"voice_of_face": "face -> voice", "face_of_voice": "voice -> face"}


def main(argv: list[str]) -> int:
    """``ssl-affect retrieve WEIGHTS --shards DIR``.

    Returns:
        The exit code.

    Raises:
        SslAffectError: anything that the user can mend.
    """
    parser = argparse.ArgumentParser(prog="ssl-affect retrieve", description=__doc__)
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="checkpoint of a pretraining on faces and voices")
    parser.add_argument("--shards", required=True, metavar="DIR", help="shards of clips with sound, held out ones")
    parser.add_argument(
        "--only",
        metavar="COLUMN=VALUE,...",
        help="clips with these labels only, as data.leave_out named them; or subject",
    )
    parser.add_argument("--windows", type=int, default=4, metavar="N", help="windows per clip (default %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N", help="windows at a time (default %(default)s)"
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode (default none)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    options = parser.parse_args(argv)
    from ssl_affect.probing.retrieval import retrieve  # takes seconds to import

    found = retrieve(
        options.weights,
        ShardSet(options.shards),
        only=_rule(options.only),
        windows=options.windows,
        batch_size=options.batch_size,
        num_workers=options.workers,
        device=options.device,
    )
    print("\n".join(as_lines(found)))
    if options.json is not None:
        write_json(options.json, found)
    return 0


def as_lines(found: dict[str, Any]) -> list[str]:
    """What :func:`ssl_affect.probing.retrieval.retrieve` gave, for a terminal."""
    left_out = found["left_out"]
    lines = [
        f"{found['windows']} windows of {found['clips']} clips of {found['speakers']} speakers; intervals over"
        f" {found['drawn']}; left out of the pretraining: {'not known' if left_out is None else ', '.join(left_out)}"
    ]
    for question, directions in found["figures"].items():
        for direction, values in directions.items():
            few, many = values["num_candidates"]
            candidates = f"{few}" if few == many else f"{few} to {many}"
            lines.append(
                f"{_DIRECTIONS[direction]} {_QUESTIONS[question]}, {values['num_queries']} queries, {candidates} each"
            )
            for name, figure in values["figures"].items():
                interval = f"[{figure['low']:.3f}, {figure['high']:.3f}]"
                lines.append(
                    f"  {name.replace('_', ' '):12} {figure['value']:7.3f} {interval}  guessing {figure['chance']:.3f}"
                )
    return lines


def _rule(text: str | None) -> LeaveOut | None:
    if text is None:
        return None
    column, equals, values = text.partition("=")
    if not equals or not column or not values:
        raise ConfigError(f"--only {text!r}: write COLUMN=VALUE or COLUMN=VALUE,VALUE, for example fold=1")
    return LeaveOut(column=column, values=values.split(","))
