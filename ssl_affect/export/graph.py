"""A network as a graph: which inputs it takes, which outputs it gives, and what these are called.

The outputs are those that the rest of the suite gives for the same weights: ``features`` is what ``ssl-affect extract``
writes, the scores of a task are what a finetuning run writes into its predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssl_affect.backbones.names import CONFIG_NAME
from ssl_affect.backbones.outputs import TaskOutputs, read_outputs
from ssl_affect.checkpoint import WeightsConfig
from ssl_affect.export.run import find_checkpoint
from ssl_affect.models import from_pretrained
from ssl_affect.models.frame_head import frame_outputs

INPUT_NAMES = ("video", "audio")
FEATURES = "features"
LOGITS = "logits"  # of a head whose weights do not say what its outputs mean


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a graph besides the features.

    Args:
        name: ``TASK_logits``, ``TASK_probabilities``, ``TASK_values``; ``logits`` where tasks are not known.
        start: First output of its head that belongs to it.
        stop: The one after its last.
        apply: What is done to these: "softmax", "sigmoid" or "none".
        task: The task, where it is known.
    """

    name: str
    start: int
    stop: int
    apply: str
    task: TaskOutputs | None = None

    @property
    def per_frame(self) -> bool:
        """Whether it is read off the head for frames."""
        return self.task is not None and self.task.per_frame

    def of(self, logits: Tensor) -> Tensor:
        """[B, all outputs of the head] -> [B, stop - start]; with one output per frame [B, T, ...]."""
        part = logits[..., self.start : self.stop]
        if self.apply == "softmax":
            return part.softmax(dim=-1)
        return part.sigmoid() if self.apply == "sigmoid" else part


def list_outputs(tasks: Sequence[TaskOutputs], num_classes: int) -> list[Output]:
    """The outputs of a graph besides the features: per task what the head gives, and probabilities if it has any.

    Args:
        tasks: What the weights say about the outputs of their heads; may be empty.
        num_classes: Outputs of the head for clips.
    """
    if num_classes and not tasks:
        return [Output(LOGITS, 0, num_classes, "none")]
    found, ends = [], {True: 0, False: 0}  # tasks per frame have a head of their own
    for task in tasks:
        start = ends[task.per_frame]
        stop = start + len(task.names)
        if task.activation == "none":
            found.append(Output(f"{task.task}_values", start, stop, "none", task))
        else:
            scores = "values" if task.kind == "regression" else "probabilities"  # a sigmoid, for labels from 0 to 1
            found.append(Output(f"{task.task}_logits", start, stop, "none", task))
            found.append(Output(f"{task.task}_{scores}", start, stop, task.activation, task))
        ends[task.per_frame] = stop
    return found


class Graph(nn.Module):
    """A backbone that gives everything by name: ``features``, and the outputs of its tasks.

    Args:
        model: What ``ssl_affect.from_pretrained`` gave. Its heads move into the graph, so it is used up.
        outputs: What is given besides the features.
    """

    def __init__(self, model: nn.Module, outputs: Sequence[Output] = ()) -> None:
        super().__init__()
        self.outputs = tuple(outputs)
        self.model: Any = model
        self.head: Any = self.model.head
        self.model.head = nn.Identity()

    def forward(self, video: Tensor | None = None, audio: Tensor | None = None) -> dict[str, Tensor]:
        """Normalised pictures [B, 3, T, H, W] and spectrograms [B, 1, time, mel], as far as the model takes them."""
        inputs = (video,) if audio is None else (video, audio)
        features = self.model(*inputs)
        heads = {False: self.head(features)}
        if any(output.per_frame for output in self.outputs):  # the tokens are made a second time
            count = self.model.spec.arch["num_frames"]
            heads[True] = frame_outputs(self.model, self.model.frame_head, *inputs, num_frames=count)
        return {FEATURES: features} | {output.name: output.of(heads[output.per_frame]) for output in self.outputs}

    def example_inputs(self, batch_size: int, seed: int = 0) -> dict[str, Tensor]:
        """Random inputs by name, float32, about as large as normalised pictures and spectrograms."""
        generator = torch.Generator("cpu").manual_seed(seed)
        return {
            name: torch.randn(batch_size, *one.shape[1:], generator=generator)
            for name, one in zip(INPUT_NAMES, self.model.example_inputs(), strict=False)
            if one is not None
        }


def load_graph(source: str | Path, *, offline: bool = False) -> tuple[Graph, WeightsConfig]:
    """The graph of some weights, in float32 and evaluation mode on the CPU, and what the weights say about themselves.

    Args:
        source: Folder of a run, ``.ckpt`` file, released folder, name of the table of weights, or ``hf-hub:...``. Of a
            finetuning run its released weights are taken, which are those that were tested.
        offline: Do not use the network.

    Raises:
        CheckpointError: the weights are missing, damaged, or do not fit their model or what they say of their outputs.
        ConfigError: the name is unknown.
    """
    model: Any = from_pretrained(_weights_of(source), offline=offline).float().requires_grad_(False)
    config: WeightsConfig = model.weights_config
    tasks = read_outputs(config.provenance, model.num_classes, source)
    if getattr(model, "frame_head", None) is None:
        tasks = tuple(task for task in tasks if not task.per_frame)
    return Graph(model, list_outputs(tasks, model.num_classes)).eval(), config


def _weights_of(source: str | Path) -> str | Path:
    """What ``from_pretrained`` reads: for the folder of a run its released weights, else its last checkpoint."""
    folder = Path(source).expanduser()
    if not folder.is_dir() or (folder / CONFIG_NAME).is_file():
        return source
    released = folder / "weights"
    return released if (released / CONFIG_NAME).is_file() else find_checkpoint(folder)
