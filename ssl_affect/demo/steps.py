"""The commands of the demo, in order: nothing in it that a user could not type."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from ssl_affect.errors import ConfigError
from ssl_affect.journal import Step, shortest

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
_FACES = ("--seconds", "2", "--size", "160", "--difficulty", "easy")
# Nobody of the labelled set is in the sets that are pretrained on: another seed draws other people.
LABELLED = ("--clips", "160", "--identities", "40", "--seed", "1", *_FACES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What the demo does for one method.

    Args:
        name: Its recipe is ``configs/demo/NAME.yaml``.
        model: The model that the recipe trains.
        synthetic: Arguments of ``shards synth`` for the clips without labels.
        held_out: The same for clips that are validated on; none: the loss on training clips is all that is shown.
        overlays: Configs that its finetuning needs besides ``configs/demo/probe.yaml``.
    """

    name: str
    model: str
    synthetic: tuple[str, ...]
    held_out: tuple[str, ...] = ()
    overlays: tuple[str, ...] = ()


_MANY = ("--clips", "192", "--identities", "48", *_FACES)
_FEW = ("--identities", "16", "--identity", "1", *_FACES)  # few people, many clips of each: voices can be learned
METHODS = {
    method.name: method
    for method in (
        Method(name="mae_dfer", model="mae_dfer_tiny", synthetic=_MANY),
        Method(name="svfap", model="svfap_tiny", synthetic=_MANY),
        Method(
            name="hicmae",
            model="hicmae_tiny",
            synthetic=("--clips", "256", *_FEW),
            held_out=("--clips", "64", "--first", "256", *_FEW),
            overlays=("demo/hears.yaml",),
        ),
    )
}
# What is compared on the labelled clips: name of the run -> what it says.
PROBES = {"pretrained": "pretrained", "random": "random weights", "pixels": "pixel statistics"}
FINETUNES = {"pretrained": "pretrained", "scratch": "from scratch"}


def config(name: str) -> Path:
    """A config of the checkout by its path below ``configs``.

    Raises:
        ConfigError: it is not there.
    """
    path = CONFIGS / name
    if not path.is_file():
        raise ConfigError(
            f"{path} is not there: the demo reads its recipes from a checkout of the project; clone it, run"
            " `pip install -e .` in it, and start the demo again"
        )
    return path


def data_steps(out: Path, method: Method, videos: Path | None, workers: int) -> list[Step]:
    """The commands from videos to shards that were looked at.

    Args:
        out: Folder of everything that is made.
        method: What is trained.
        videos: The user's videos; None makes synthetic ones first.
        workers: Processes for making and building.
    """
    shards, sheet, stats = out / "shards", out / "contact_sheet.html", out / "stats.txt"
    steps = []
    if videos is None:
        steps += _drawn(out, "synthetic", "shards", method.synthetic, "talking faces", workers)
        if method.held_out:
            steps += _drawn(
                out, "synthetic_held_out", "held_out_shards", method.held_out, "other clips of them", workers
            )
    else:
        steps.append(_build(("build", str(videos)), shards, workers))
    verify = ("shards", "verify", str(shards), "--workers", str(workers))
    return [
        *steps,
        Step("read every byte again, decode every clip", verify, shards / "manifest.json"),
        Step("describe the shards", ("shards", "stats", str(shards)), stats, keep_output=stats),
        Step("contact sheet", ("shards", "view", str(shards), "--out", str(sheet)), sheet),
    ]


def training_steps(out: Path, method: Method) -> list[Step]:
    """The commands from shards to exported weights; a set smaller than the recipe's batch gets a smaller batch."""
    shards, held_out, run, weights = out / "shards", out / "held_out_shards", out / "run", out / "weights"
    recipe = config(f"demo/{method.name}.yaml")
    fit = ("pretrain", "fit", *_configs(config("base.yaml"), recipe), "--data.shards", str(shards), "--run", str(run))
    num_samples = json.loads((shards / "manifest.json").read_bytes())["num_samples"]
    if num_samples < yaml.safe_load(recipe.read_text(encoding="utf-8"))["data"]["batch_size"]:
        fit = (*fit, "--data.batch_size", str(num_samples))
    if (held_out / "manifest.json").is_file():
        fit = (*fit, "--data.val_shards", str(held_out))
    return [
        Step(f"pretrain ({method.name}, very small)", fit, run / "report.html"),
        Step("export the weights", ("export", str(run), "--out", str(weights), "--force"), weights / "config.json"),
    ]


def transfer_steps(out: Path, method: Method, workers: int) -> list[Step]:
    """The commands from exported weights to what they are worth on labelled synthetic clips of other people."""
    steps = _drawn(out, "synthetic_labelled", "labelled_shards", LABELLED, "other people, labelled", workers)
    pretrained = ("--model.init_args.model", method.model, "--model.init_args.pretrained", str(out / "weights"))
    scratch = (*pretrained, "--model.init_args.scratch", "true")
    pixels = ("--model.init_args.model", "pixel_statistics")
    probes = (config("demo/probe.yaml"), *map(config, method.overlays))
    for name, what in PROBES.items():
        how = {"pretrained": pretrained, "random": scratch, "pixels": pixels}[name]
        recipe = probes[:1] if name == "pixels" else probes
        steps.append(_finetune(f"linear probe: {what}", out, f"probe_{name}", recipe, how))
    for name, what in FINETUNES.items():
        recipe = (*probes, config("demo/finetune.yaml"))
        how = pretrained if name == "pretrained" else scratch
        steps.append(_finetune(f"finetune: {what}", out, f"finetune_{name}", recipe, how))
    return steps


def _finetune(title: str, out: Path, run: str, recipe: tuple[Path, ...], how: tuple[str, ...]) -> Step:
    where = ("--data.shards", str(out / "labelled_shards"), "--run", str(out / run))
    return Step(title, ("finetune", "fit", *_configs(*recipe), *how, *where), out / run / "test" / "test.json")


def _drawn(out: Path, videos: str, shards: str, arguments: tuple[str, ...], what: str, workers: int) -> list[Step]:
    """Draws a synthetic set and builds its shards."""
    made = out / videos
    draw = ("shards", "synth", "--out", str(made), *arguments, "--workers", str(workers))
    build = _build(("build", "--manifest", str(made / "manifest.csv")), out / shards, workers)
    return [Step(f"draw synthetic {what}", draw, made / "manifest.csv"), build]


def _build(source: tuple[str, ...], shards: Path, workers: int) -> Step:
    faces = ("--out", str(shards), "--faces", "detect", "--margin", "0.1", "--workers", str(workers))
    return Step("find and follow faces, write shards", ("shards", *source, *faces), shards / "manifest.json")


def _configs(*paths: Path) -> tuple[str, ...]:
    return tuple(part for path in paths for part in ("--config", str(shortest(path))))
