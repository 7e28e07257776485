"""A tiny finetuned release and rows without a model, for the tests of `ssl-affect report`."""

from pathlib import Path

import numpy as np
import torch

import ssl_affect
from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.backbones.release import write_release
from ssl_affect.checkpoint import FRAME_PREFIX, Weights, WeightsConfig
from ssl_affect.extract.engine import Row
from ssl_affect.extract.table import make_schema, to_table
from ssl_affect.extract.windows import Window
from ssl_affect.models.frame_head import FrameHead
from ssl_affect.recipe import Recipe

EVIL = "</script><script>alert(1)</script>&\"'<"
SEES = {"img_size": 32, "patch_size": 8, "num_frames": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
HEARS = SEES | {
    "audio_size": [64, 32], "audio_patch_size": 8, "audio_embed_dim": 16, "audio_depth": 1, "audio_num_heads": 2,
    "fusion_depth": 1, "fusion_num_heads": 2,
}  # fmt: skip
CROPPED = Recipe(faces="none", size=32, min_seconds=0.04)
OUTPUTS = (
    TaskOutputs.of(task="expression", kind="expression", names=("calm", "happy", "sad"), activation="softmax"),
    TaskOutputs.of(task="au", kind="au", names=("au01", "au12"), activation="sigmoid"),
    TaskOutputs.of(task="va", kind="va", names=("valence", "arousal"), activation="none"),
)
PER_FRAME = (
    TaskOutputs.of(task="expression", kind="expression", names=("calm", "happy"), activation="softmax", per_frame=True),
    TaskOutputs.of(task="intensity", kind="au-intensity", names=("au01",), activation="none"),
    TaskOutputs.of(task="va", kind="va", names=("valence", "arousal"), activation="none", per_frame=True),
)
EVIL_OUTPUTS = (
    TaskOutputs.of(task=EVIL, kind="expression", names=("=1+1", EVIL, "sad\0"), activation="softmax"),
    TaskOutputs.of(task="au", kind="au", names=(EVIL, "au12"), activation="sigmoid"),
    TaskOutputs.of(task="va", kind="va", names=("valence", EVIL), activation="none"),
)


def release(folder: Path, *, outputs=OUTPUTS, name="mae_dfer_tiny", arch=None, recipe=CROPPED, **provenance) -> Path:
    """Finetuned weights with random values that differ from window to window."""
    torch.manual_seed(0)
    count, of_frames = (sum(len(one.names) for one in outputs if one.per_frame is kind) for kind in (False, True))
    model = ssl_affect.create_model(name, num_classes=count, **(arch or SEES))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    facts = {
        "clip": {"num_frames": 4, "stride": 2, "size": 32},
        "outputs": [one.to_dict() for one in outputs],
        **provenance,
    }
    config = WeightsConfig(
        name=name, task="classify", num_classes=count, arch=model.spec.arch, recipe=recipe.to_dict(), provenance=facts
    )
    state = dict(model.state_dict())
    if of_frames:
        head = FrameHead(model.spec.arch["embed_dim"], of_frames, init_scale=50.0)
        state |= {f"{FRAME_PREFIX}{name}": tensor for name, tensor in head.state_dict().items()}
    write_release(folder, Weights(config, state))
    return folder


def table(windows: list[tuple[int, float, float, float]], logits: np.ndarray, boxes: bool = True):
    """Rows as an extraction writes them, from (person, start_s, end_s, valid) of every window and logits [n, K]."""
    rows, counts = [], {}
    for (person, start_s, end_s, valid), one in zip(windows, logits, strict=True):
        counts[person] = counts.get(person, -1) + 1
        window = Window(
            sample=None, source="v", person=person, number=counts[person], start_s=start_s, end_s=end_s, valid=valid,
            face_size=50.0, face_score=0.99, box=(10.0, 20.0, 30.0, 30.0) if boxes else None,
            frames=lambda: np.zeros(0), sound=None,
        )  # fmt: skip
        rows.append(Row(window, None, np.zeros(4, np.float32), one.astype(np.float32)))
    return to_table(rows, make_schema(4, logits.shape[1], {}))
