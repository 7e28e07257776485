"""``ssl-affect pretrain fit`` and ``report``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssl_affect.errors import ConfigError

USAGE = """usage: ssl-affect pretrain fit --config RECIPE.yaml [--config OVERLAY.yaml ...] [--KEY VALUE ...]
       ssl-affect pretrain report RUN

fit     Runs a recipe. configs/base.yaml comes first, then every --config in the order given, then single keys:
          ssl-affect pretrain fit --config configs/pretrain/mae_dfer_base.yaml \\
              --config configs/cluster/ddp_8gpu.yaml --data.shards /data/vox2 --run runs/vox2
        The same command continues a run that was interrupted.
        --run DIR                 the folder of the run
        --resume auto|none|PATH   auto (default) goes on from the newest whole checkpoint of the folder
        --allow-recipe-mismatch   go on from a checkpoint of differently cropped data
        --print_config            the merged config
        --help                    every key with its meaning
report  Writes report.html of a run again, from the files in its folder."""


def main(argv: list[str]) -> int:
    """``ssl-affect pretrain ...``.

    Returns:
        The exit code.

    Raises:
        SslAffectError: anything that the user can mend.
    """
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    # Imported here, because everything below needs torch and Lightning, which take seconds.
    if command == "report" and len(rest) == 1:
        from pretrain.report import write_report

        print(write_report(Path(rest[0])))
        return 0
    if command != "fit":
        raise ConfigError(f"pretrain {' '.join(argv)!r} is not understood; say `fit --config ...` or `report RUN`")
    from pretrain.config import parse
    from pretrain.fit import fit

    with _command_line(["pretrain", *argv]):
        return fit(parse(rest))


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Makes ``sys.argv`` the command itself: Lightning starts the processes of further devices with it."""
    before = sys.argv
    script = Path(sys.executable).with_name("ssl-affect")
    sys.argv = [str(script) if script.is_file() else before[0], *arguments]
    try:
        yield
    finally:
        sys.argv = before
