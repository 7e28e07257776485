"""The parser of ``ssl-affect finetune fit``: which classes its keys come from."""

from finetune.data import LabelledClips
from finetune.mixup import MixSpec
from finetune.module import Finetuning
from finetune.selection import Selection
from finetune.split import SplitSpec
from finetune.tasks import TaskSpec
from finetune.tuning import TuningSpec
from ssl_affect.data.audio_augment import WaveAugment
from ssl_affect.data.augment import AugmentSpec
from ssl_affect.training.config import CONFIGS, RunCLI
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec
from ssl_affect.types import AudioSpec, ClipSpec


class FinetuneCLI(RunCLI):
    """Parses a finetuning config and builds module, data and trainer from it; runs nothing."""

    command = "finetune fit"
    purpose = "Finetunes or probes a backbone on labelled clips."
    base_config = CONFIGS / "finetune" / "base.yaml"
    module_class = Finetuning
    data_class = LabelledClips
    links = (
        ("data.clip", "model.init_args.clip"),
        ("data.audio", "model.init_args.audio"),
        ("seed_everything", "model.init_args.seed"),
        ("seed_everything", "data.seed"),
    )
    said = ("model.init_args.pretrained", "data.augment.rand_augment", "data.augment.crop_scale")
    parts = {"validation": Selection}  # noqa: RUF012  # as in the base class
    key_classes = (
        Finetuning, TaskSpec, TuningSpec, MixSpec, OptimSpec, ScheduleSpec, SplitSpec, ClipSpec, AudioSpec, AugmentSpec,
        WaveAugment,
    )  # fmt: skip
