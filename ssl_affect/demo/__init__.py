"""``ssl-affect demo``: the whole road, from videos to a pretrained model, its report and its transfer, with the commands
shown.

The demo holds no shortcut of its own: it runs the commands that a user would type, in processes of their own. A journal in
the output folder notes which are done, so a second run goes on where the first one stopped.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from ssl_affect.demo.results import next_commands, summary
from ssl_affect.demo.steps import METHODS, config, data_steps, training_steps, transfer_steps
from ssl_affect.errors import ConfigError
from ssl_affect.journal import Journal, Step, signals_interrupt

__all__ = ["main"]

JOURNAL = "demo.json"


def main(argv: list[str]) -> int:
    """Runs the demo. Exit code 0: the road works and the loss fell well below a constant predictor's; 1: it did not.

    Raises:
        ConfigError: the configs are not there, or the videos are not a folder.
        SslAffectError: one of the commands failed.
    """
    options = _parser().parse_args(argv)
    out: Path = options.out
    if options.videos is not None and not options.videos.is_dir():
        raise ConfigError(f"--videos {options.videos}: not a folder; give a folder with video files, any depth")
    method = METHODS[options.method]
    config(f"demo/{method.name}.yaml")
    parts: list[Callable[[], list[Step]]] = [
        lambda: data_steps(out, method, options.videos, options.workers),
        lambda: training_steps(out, method),
    ]
    if options.videos is None:  # one's own videos have no labels
        parts.append(lambda: transfer_steps(out, method, options.workers))
    journal, number = Journal(out / JOURNAL), 0
    begin = time.monotonic()
    with signals_interrupt():
        for part, make in enumerate(parts, 1):
            for step in make():
                number += 1
                journal.do(step, f"[{part}/{len(parts)}, command {number}]")
    rows = summary(out)
    rows.append(("time, this run", f"{time.monotonic() - begin:.0f} s"))
    print()
    for name, text in rows:
        print(f"{name:32} {text}")
    print("\nnext, on a video of your own:")
    for command in next_commands(out):
        print(f"  {command}")
    return 0 if dict(rows)["result"].startswith("pass") else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssl-affect demo",
        description="The whole road on synthetic talking faces or on your own videos: shards, a short pretraining of a tiny"
        " model, a report; with synthetic faces also probes and finetuning on labels. It takes some minutes on two cores;"
        " the same command goes on where it was interrupted.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), metavar="DIR", help="output (default %(default)s)")
    parser.add_argument(
        "--videos", type=Path, metavar="DIR", help="a folder with your videos, instead of synthetic ones"
    )
    parser.add_argument("--method", choices=tuple(METHODS), default="mae_dfer", help="default %(default)s")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default %(default)s)")
    return parser
