"""The parser of ``ssl-affect pretrain fit``: which classes its keys come from."""

from pretrain.audio_visual import AudioVisualPretraining
from pretrain.base import Pretraining
from pretrain.data import ClipDataModule
from pretrain.module import MaskedVideoPretraining
from pretrain.pictures import ReconstructionPictures
from pretrain.probes import OnlineProbes
from ssl_affect.data.audio_augment import WaveAugment
from ssl_affect.data.samples import LeaveOut
from ssl_affect.training.callbacks.validation import Validation
from ssl_affect.training.config import CONFIGS, RunCLI
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec
from ssl_affect.types import AudioSpec, ClipSpec, MaskSpec


class PretrainCLI(RunCLI):
    """Parses a pretraining config and builds module, data and trainer from it; runs nothing."""

    command = "pretrain fit"
    purpose = "Pretrains a model on shards of face clips."
    base_config = CONFIGS / "base.yaml"
    module_class = Pretraining
    data_class = ClipDataModule
    links = (
        ("data.clip", "model.init_args.clip"),
        ("data.audio", "model.init_args.audio"),
        ("seed_everything", "model.init_args.seed"),
        ("seed_everything", "data.seed"),
    )
    parts = {  # noqa: RUF012  # as in the base class
        "validation": Validation,
        "probes": OnlineProbes,
        "pictures": ReconstructionPictures,
    }
    key_classes = (
        MaskedVideoPretraining, AudioVisualPretraining, OptimSpec, ScheduleSpec, MaskSpec, ClipSpec, AudioSpec, WaveAugment,
        LeaveOut,
    )  # fmt: skip
