"""``ssl-affect pretrain fit`` and ``report``."""

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
    from pretrain.config import PretrainCLI
    from pretrain.report import write_report
    from ssl_affect.training.fit import command_line, fit

    with command_line(["pretrain", *argv]):
        return fit(PretrainCLI.parse(rest), write_report)
