"""Features of faces in raw videos, as a table: found, followed and cropped by the model's own recipe, window by window.

In three lines::

    import ssl_affect
    table = ssl_affect.extract_features("video.mp4", model="mae_dfer_base.voxceleb2", crop="detect")
    features = ssl_affect.features_array(table)  # float32 [windows, D]; table["start_s"], table["person"], ...
"""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import nn

from ssl_affect.errors import ConfigError
from ssl_affect.extract.run import Extraction, ExtractSettings, Summary, extract_table, extract_to
from ssl_affect.extract.table import features_array, read_job

__all__ = [
    "ExtractSettings",
    "Extraction",
    "Summary",
    "extract_features",
    "extract_table",
    "extract_to",
    "features_array",
    "read_job",
]


def extract_features(
    source: str | Path,
    *,
    model: str | Path | nn.Module,
    out: str | Path | None = None,
    progress: bool = False,
    **settings: Any,
) -> pa.Table:
    """Features of all people in a video, in all videos of a folder, or in a shard set.

    Args:
        source: Video file, folder of videos, or folder of a shard set.
        model: A name of ``ssl-affect backbones list``, "hf-hub:organisation/name", a released folder, a checkpoint, or a
            model from :func:`ssl_affect.from_pretrained`.
        out: Also write a Parquet file, in constant memory and going on after a stop; the table is then a view of it.
        progress: Show a bar.
        settings: Fields of :class:`ExtractSettings`, for instance ``crop="detect"``, ``hop_s=0.5``, ``device="cuda"``.

    Returns:
        One row per window: ``source``, ``person``, ``start_s``, ``end_s``, ``valid``, ``features`` and more; see
        ``docs/extract.md``. What has no row, and why, stands in the metadata (:func:`read_job` of a file).

    Raises:
        ConfigError: nothing to read, or settings that do not fit the weights.
        CheckpointError: the weights are missing or damaged.
        DecodeError: no source at all could be read.
    """
    names = ExtractSettings.__dataclass_fields__
    if unknown := sorted(set(settings) - set(names)):
        raise ConfigError(f"extract_features: unknown settings {unknown}; there are {', '.join(names)}")
    extraction = Extraction(Path(source), model, ExtractSettings(**settings))
    if out is None:
        table, summary = extract_table(extraction, progress=progress)
    else:
        summary = extract_to(Path(out), extraction, progress=progress)
        table = pq.read_table(out, memory_map=True)
    summary.raise_if_nothing()
    return table
