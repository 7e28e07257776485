"""``ssl-affect``: one command with sub-commands that are imported only when they are called."""

import difflib
import logging
import os
import sys
from importlib import import_module

from ssl_affect import __version__
from ssl_affect.errors import SslAffectError

# Sub-command -> ("module:function", what it does). A function takes the remaining arguments and returns the exit code.
COMMANDS: dict[str, tuple[str, str]] = {
    "shards": ("shards.cli:main", "build, verify, describe and look at shards of face clips"),
    "pretrain": ("pretrain.cli:main", "pretrain a model on shards"),
    "finetune": ("finetune.cli:main", "finetune or probe a backbone on labelled shards, and test it"),
    "models": ("ssl_affect.models_cli:main", "list models, their sizes and their FLOPs"),
    "export": ("ssl_affect.export.cli:main", "turn a run into released weights, or weights into ONNX or torch.export"),
    "convert": ("ssl_affect.convert.cli:main", "import a checkpoint of the authors' repositories"),
    "backbones": ("ssl_affect.backbones.cli:main", "released weights: list, info, download, verify, push"),
    "extract": ("ssl_affect.extract.cli:main", "features of the faces in your videos, as a table"),
    "report": ("ssl_affect.timeline.cli:main", "one page on a video: expressions over time by a finetuned model"),
    "evaluate": ("ssl_affect.evaluation.cli:main", "figures, intervals and a report of a file of predictions"),
    "audit": ("ssl_affect.evaluation.cli:audit", "recompute and relabel somebody else's results"),
    "retrieve": ("ssl_affect.probing.retrieval_cli:main", "find the voice of a face and the face of a voice"),
    "slurm": ("ssl_affect.slurm.cli:main", "runs on a cluster: submit, status, doctor"),
    "bakeoff": ("ssl_affect.bakeoff.cli:main", "several methods, the same shards, the same compute, one report"),
    "demo": ("ssl_affect.demo:main", "the whole road on synthetic faces or on your own videos"),
    "protocol": (
        "ssl_affect.protocols.cli:main",
        "data sets: labels, folds, counts, published numbers; check your copy",
    ),
    "plan": ("ssl_affect.planning.cli:main", "hours, memory, disk and data workers of a run, before it starts"),
    "ledger": ("ssl_affect.training.ledger_cli:main", "prove that a run used every clip exactly once; show its starts"),
    "doctor": ("ssl_affect.doctor:main", "what is installed, what loads, and what to do about what does not"),
}


def usage() -> str:
    """The text of ``ssl-affect --help``."""
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {what}" for name, (_, what) in COMMANDS.items())
    return (
        f"usage: ssl-affect COMMAND ...\n\nSelf-supervised pretraining on unlabeled faces and voices, {__version__}.\n\n"
        f"commands:\n{rows}\n\n`ssl-affect COMMAND --help` explains one of them; `ssl-affect --version` prints the version."
    )


def main(argv: list[str] | None = None) -> int:
    """Runs one sub-command; errors that the user can mend are one message on stderr and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"ssl-affect {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        print(f"ssl-affect: {name!r} is not a command{hint} Choose from {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    module, function = COMMANDS[name][0].split(":")
    try:
        return getattr(import_module(module), function)(rest)
    except SslAffectError as error:
        print(f"ssl-affect {name}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return 141
    except KeyboardInterrupt:
        print(f"\nssl-affect {name}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
