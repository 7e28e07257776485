"""The errors a user or a file can cause. Every message says what was given, what is allowed and what to do next."""


class SslAffectError(Exception):
    """Base class: catch this to catch everything that the suite raises on purpose."""


class ConfigError(SslAffectError, ValueError):
    """A setting, an architecture argument or a combination of them is not possible."""


class ShardError(SslAffectError):
    """A shard, an index or a manifest is missing, damaged or not what its hash says."""


class DecodeError(SslAffectError):
    """A video, an image or a sound could not be decoded without errors."""


class RecipeMismatchError(SslAffectError):
    """Data and checkpoint were made with different face-crop recipes."""


class CheckpointError(SslAffectError):
    """A checkpoint is missing, damaged, unsafe to load, or does not fit the model."""


class PredictionsError(SslAffectError):
    """Predictions, labels or a log cannot be evaluated: they are missing, contradictory, not finite or not understood."""


class ProtocolError(SslAffectError):
    """Files, labels or folds are not what the protocol of a data set says."""


class ClusterError(SslAffectError):
    """Slurm is not there, says no, or is asked for something that does not fit the run."""
