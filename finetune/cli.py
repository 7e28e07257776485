"""``ssl-affect finetune fit``, ``test``, ``join`` and ``report``."""

import argparse
from pathlib import Path

from ssl_affect.errors import ConfigError

USAGE = """usage: ssl-affect finetune fit --config RECIPE.yaml [--config OVERLAY.yaml ...] [--KEY VALUE ...]
       ssl-affect finetune test RUN [--device DEVICE] [--KEY VALUE ...]
       ssl-affect finetune join RUN RUN ... --out DIR
       ssl-affect finetune report RUN

fit     Trains a backbone, or a probe on its frozen features, on labelled shards, and tests it. configs/finetune/base.yaml
        comes first, then every --config in the order given, then single keys:
          ssl-affect finetune fit --config configs/finetune/mae_dfer_dfew.yaml \\
              --data.shards shards/dfew --data.split.fold 1 --model.pretrained weights/ --run runs/dfew-1
        The same command continues a run that was interrupted.
        --run DIR        the folder of the run
        --print_config   the merged config
        --help           every key with its meaning
test    Predicts the test part again from the checkpoints of a run, with its config and what single keys change:
        --data.shards DIR where they are now, --data.test_views N clips per sample.
join    Evaluates the test parts of several runs together: the folds of one cross-validation.
report  Writes report.html of a run again, from the files in its folder."""


def main(argv: list[str]) -> int:
    """``ssl-affect finetune ...``.

    Returns:
        The exit code.

    Raises:
        SslAffectError: anything that the user can mend.
    """
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if command not in ("fit", "test", "join", "report"):
        raise ConfigError(f"finetune {command!r} is not understood; say fit, test, join or report")
    if command == "fit":
        # Imported here, because everything below needs torch and Lightning, which take seconds.
        from finetune.config import FinetuneCLI
        from finetune.fit import fit_finetuning
        from ssl_affect.training.fit import command_line

        with command_line(["finetune", *argv]):
            return fit_finetuning(FinetuneCLI.parse(rest))
    parser = argparse.ArgumentParser(prog=f"ssl-affect finetune {command}")
    parser.add_argument("runs", nargs="+" if command == "join" else 1, type=Path, metavar="RUN")
    if command == "test":
        parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default cpu)")
    if command == "join":
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the joint results")
    options, overrides = parser.parse_known_args(rest) if command == "test" else (parser.parse_args(rest), [])
    if command == "test":
        from finetune.fit import run_test

        run_test(options.runs[0], options.device, overrides)
    elif command == "join":
        from finetune.testing import join_runs

        join_runs(options.runs, options.out)
        print(f"written: {options.out}")
    else:
        from finetune.report import write_report

        print(write_report(options.runs[0]))
    return 0
