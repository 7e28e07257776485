"""Supervised training of one backbone on one or several affect tasks.

Clip tasks share the head of the backbone, one slice of its outputs each; tasks with one label per frame share a head on
its tokens. A clip teaches only the tasks that it has a label for.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finetune.mixup import MixSpec, mix_batch
from finetune.tasks import Targets, Task, TaskSpec, make_task, mix_targets
from finetune.tuning import TuningSpec, apply_tuning, frame_width, freeze_pooling
from ssl_affect.data.augment import prepare_augmented
from ssl_affect.data.clips import ClipBatch
from ssl_affect.data.sampling import Draws
from ssl_affect.data.spectrogram import LogMel
from ssl_affect.errors import ConfigError
from ssl_affect.models import create_model
from ssl_affect.models.frame_head import FrameHead, frame_outputs
from ssl_affect.models.registry import model_info
from ssl_affect.training.module import TrainedModule, seeded_generator, step_output
from ssl_affect.training.schedule import OptimSpec, ScheduleSpec
from ssl_affect.types import AudioSpec, ClipSpec, LossParts

MIX_STREAM, NOISE_STREAM = 21, 22  # keep draws of a step apart from those of other uses


class Finetuning(TrainedModule):
    """A backbone with heads, trained on labelled clips.

    Args:
        model: Name of the model, see ``ssl-affect models list``.
        tasks: What is predicted.
        clip: What a clip is. Linked to ``data.clip``.
        audio: What its sound is; null for models that see only. Linked to ``data.audio``.
        seed: Run seed. Linked to ``seed_everything``.
        pretrained: Weights to start from, as for :func:`ssl_affect.create_model`; null starts from random weights, which
            has to be said.
        tuning: How much is trained.
        optim: Optimizer settings; null only with frozen features.
        schedule: Length of the run; null only with frozen features.
        mix: Mixup and CutMix; null mixes nothing.
        scratch: Take the architecture of ``pretrained``, but draw new weights: what pretraining has to beat.
        arch: Architecture arguments that differ from those of the weights or of the named model.
        compile: Compile the model with ``torch.compile``.

    Attributes:
        notes: Sentences to stand beside every result of this model.

    Raises:
        ConfigError: tasks share a name, a recipe lacks what its mode needs, or an argument is impossible.
    """

    can_be_sharded = False  # its end tests two sets of weights and releases one

    def __init__(
        self,
        *,
        model: str,
        tasks: list[TaskSpec],
        clip: ClipSpec,
        audio: AudioSpec | None,
        seed: int,
        pretrained: str | None,
        tuning: TuningSpec,
        optim: OptimSpec | None,
        schedule: ScheduleSpec | None,
        mix: MixSpec | None = None,
        scratch: bool = False,
        arch: dict[str, Any] | None = None,
        compile: bool = False,
    ) -> None:
        if not tuning.frozen and (optim is None or schedule is None):
            raise ConfigError(
                f"tuning.mode={tuning.mode} trains the backbone, so the recipe has to give optim and schedule; only linear,"
                " attentive and knn do without"
            )
        # Frozen modes never reach the optimizer; the base class wants values all the same.
        super().__init__(
            optim=optim or OptimSpec(base_lr=1e-3, min_lr=0.0, betas=(0.9, 0.999), weight_decay=0.0),
            schedule=schedule or ScheduleSpec(steps=1, warmup_steps=0),
            seed=seed,
        )
        self.tasks = [make_task(spec) for spec in tasks]
        check_tasks(self.tasks)
        self.clip = clip
        self.audio = audio
        self.tuning = tuning
        self.mix = mix
        self.pretrained = pretrained
        self.scratch = scratch
        self.notes: list[str] = []
        self.front_end = None if audio is None else LogMel(audio)
        self.clip_tasks = [task for task in self.tasks if not task.spec.per_frame]
        self.frame_tasks = [task for task in self.tasks if task.spec.per_frame]
        sizes = backbone_arch(model, clip, audio, arch or {})
        self.model = create_model(model, pretrained=pretrained, **(arch or {}), **sizes)
        if mix is not None and not mix.sound and getattr(self.model, "modality", "both") == "audio":
            raise ConfigError(
                "mix.sound=false with a model that only hears: its labels would be mixed and its clips not; say"
                " --model.init_args.mix.sound=true or --model.init_args.mix=null"
            )
        if scratch:
            if pretrained is None:
                raise ConfigError("scratch=true draws new weights for the architecture of pretrained=; give that too")
            self.model.init_weights()
            self.notes.append(f"from scratch: the architecture of {pretrained}, with new random weights")
        self.model.reset_classifier(sum(task.num_outputs for task in self.clip_tasks))
        self.frame_head = None
        if self.frame_tasks:
            self.frame_head = FrameHead(frame_width(self.model), sum(task.num_outputs for task in self.frame_tasks))
        apply_tuning(self.model, tuning)
        if not self.clip_tasks:
            freeze_pooling(self.model)
        # A function and not a module, so that a checkpoint has the same names with and without ``compile``.
        self.forward_clips = torch.compile(self.model.forward) if compile else self.model.forward

    @property
    def hears(self) -> bool:
        """Whether the model takes sound."""
        return self.audio is not None

    def training_step(self, batch: ClipBatch, batch_idx: int) -> dict[str, Any]:
        """Loss of one batch, mixed as the recipe says."""
        parts = self.trainer.accumulate_grad_batches
        number = (self.global_step * parts + batch_idx % parts) * self.trainer.world_size + self.global_rank
        video, audio = self.prepare(batch, number=number)
        targets = self.targets(batch)
        if self.mix is not None and not batch.is_blank:
            draws = Draws(self.seed, number, MIX_STREAM)
            video, audio, lam, order = mix_batch(video, audio, batch.audio_valid, self.mix, draws)
            targets = {name: mix_targets(target, order, lam) for name, target in targets.items()}
        outputs = self.predict(video, audio, batch.audio_valid)
        return step_output(self.losses(outputs, targets), batch.weight)

    def prepare(self, batch: ClipBatch, *, number: int | None = None) -> tuple[Tensor | None, Tensor | None]:
        """Pictures [B, 3, T, H, W] and spectrograms [B, 1, time, mel] on the device, normalised; None for what the model
        does not take.

        Args:
            batch: Clips on the device.
            number: Number of the training batch over all steps and ranks, by which noise is drawn; None in evaluations.

        Raises:
            ConfigError: the model hears and the batch has no sound.
        """
        noise = None if number is None else seeded_generator(self.seed, NOISE_STREAM, number)
        video = None
        if getattr(self.model, "modality", "both") != "audio":
            flip, erase = (None, None) if number is None else (batch.flip, batch.erase)
            video = prepare_augmented(batch.video, batch.crop, flip, erase, self.clip.size, noise)
        if self.front_end is None:
            return video, None
        if batch.audio is None:
            raise ConfigError(
                "the clips have no sound: data.audio is not set; give it, as the recipe of this model does"
            )
        return video, self.front_end(batch.audio, batch.audio_length)

    def predict(self, video: Tensor | None, audio: Tensor | None, audio_valid: Tensor | None) -> dict[str, Tensor]:
        """Outputs of every task by its name: [B, K], or [B, T, K] for tasks with one label per frame."""
        inputs = (video,) if not self.hears else (video, audio)
        extra = {"audio_valid": audio_valid} if audio is not None and audio_valid is not None else {}
        found: dict[str, Tensor] = {}
        if self.clip_tasks:
            parts = self.forward_clips(*inputs, **extra).split([task.num_outputs for task in self.clip_tasks], dim=1)
            found |= {task.name: part for task, part in zip(self.clip_tasks, parts, strict=True)}
        if self.frame_head is not None:
            outputs = frame_outputs(self.model, self.frame_head, *inputs, num_frames=self.clip.num_frames, **extra)
            parts = outputs.split([task.num_outputs for task in self.frame_tasks], dim=2)
            found |= {task.name: part for task, part in zip(self.frame_tasks, parts, strict=True)}
        return found

    def targets(self, batch: ClipBatch) -> dict[str, Targets]:
        """Labels of a batch by task, on the device.

        Raises:
            ConfigError: the batch has no labels.
        """
        if batch.labels is None or batch.frames is None:
            raise ConfigError("the clips have no labels; finetuning reads them through finetune.data.LabelledClips")
        found = {}
        for task in self.tasks:
            if task.spec.per_frame:
                target = task.encode_frames(batch.labels, batch.frames, keys=batch.key)
            else:
                target = task.encode(batch.labels, keys=batch.key)
            found[task.name] = Targets(target.values.to(self.device), target.mask.to(self.device))
        return found

    def losses(self, outputs: dict[str, Tensor], targets: dict[str, Targets]) -> LossParts:
        """The weighted sum over tasks, and every task's own loss."""
        parts = {t.name: t.loss(outputs[t.name], targets[t.name]) for t in self.tasks}
        return LossParts(sum(t.spec.weight * parts[t.name] for t in self.tasks), parts)  # type: ignore[arg-type]

    @torch.no_grad()
    def constant(self, batch: ClipBatch) -> Tensor:
        """The loss of the best constant outputs on some clips: what learning has to beat."""
        targets = self.targets(batch)
        return sum(t.spec.weight * t.constant_loss(targets[t.name]) for t in self.tasks)  # type: ignore[return-value]

    def description(self) -> dict[str, Any]:
        """Name, architecture and heads: enough to build the model again."""
        spec = self.model.spec
        return {
            "model": spec.name,
            "arch": spec.arch,
            "task": "classify",
            "num_classes": sum(task.num_outputs for task in self.clip_tasks),
            "outputs": {task.name: list(task.names) for task in self.tasks},
        }

    def provenance(self) -> dict[str, Any]:
        """What the weights say about themselves: the meaning of their outputs, and where they come from."""
        return {
            # A list, because the order is that of the outputs.
            "outputs": [task.outputs().to_dict() for task in (*self.clip_tasks, *self.frame_tasks)],
            "start": self.pretrained,
            "tuning": self.tuning.mode,
        }

    # What the optimizer asks a model about: the network and the head for frames together.

    @property
    def trained(self) -> "Finetuning":
        """The network and the head for frames."""
        return self

    @property
    def depth(self) -> int:
        """Blocks of the network."""
        return int(self.model.depth)

    def layer_id(self, name: str) -> int:
        """Depth of a parameter; the head for frames counts as a head."""
        return self.model.layer_id(name.removeprefix("model.")) if name.startswith("model.") else self.depth + 1

    def no_weight_decay(self, *, reference: bool = False) -> set[str]:
        """Names of parameters that are not decayed besides vectors."""
        trained = {name for name, _ in self.named_parameters()}
        names = {f"model.{name}" for name in self.model.no_weight_decay()}
        return names & trained


def backbone_arch(model: str, clip: ClipSpec, audio: AudioSpec | None, arch: dict[str, Any]) -> dict[str, Any]:
    """The architecture arguments that follow from the clip and its sound.

    Raises:
        ConfigError: ``arch`` gives one of them too, or sound and model do not fit.
    """
    takes = inspect.signature(model_info(model).backbone).parameters
    takes_sound = "audio_size" in takes
    modality = arch.get("modality", "both" if takes_sound else "video")
    if takes_sound and (audio is not None) != (modality != "video"):
        raise ConfigError(
            f"{model} with modality={modality} and data.audio={audio}; give data.audio for models that hear, and"
            " arch.modality=video for one that only sees"
        )
    if audio is not None and not takes_sound:
        raise ConfigError(
            f"{model} does not hear: leave data.audio out, or choose a model that does, such as hicmae_base"
        )
    given: dict[str, Any] = {"img_size": clip.size, "num_frames": clip.num_frames}
    given = {name: value for name, value in given.items() if name in takes}
    if audio is not None:
        given["audio_size"] = (audio.num_frames, audio.num_mel_bins)
    for name in given.keys() & arch.keys():
        raise ConfigError(f"model.arch.{name}={arch[name]}, but data already says {given[name]}; leave it out of arch")
    return given


def check_tasks(tasks: Sequence[Task]) -> None:
    """Refuses no task, and two tasks of one name.

    Raises:
        ConfigError: see above.
    """
    names = [task.name for task in tasks]
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"tasks: {names or 'none'} given; give at least one, each with a name of its own (tasks[].name)"
        )
