"""Evaluation protocols: data sets as data, their folds by rule, their published numbers, and checks against both.

>>> from ssl_affect.protocols import get_protocol, build_folds, published_numbers
>>> get_protocol("dfew").targets[0].classes
('happy', 'sad', 'neutral', 'angry', 'surprise', 'disgust', 'fear')

Nothing here imports torch.
"""

from ssl_affect.protocols.folds import Fold, build_folds, fingerprint
from ssl_affect.protocols.independence import IndependenceReport, check_independence, cut_validation
from ssl_affect.protocols.numbers import PublishedNumber, published_numbers
from ssl_affect.protocols.registry import get_protocol, list_protocols
from ssl_affect.protocols.spec import Protocol

__all__ = [
    "Fold",
    "IndependenceReport",
    "Protocol",
    "PublishedNumber",
    "build_folds",
    "check_independence",
    "cut_validation",
    "fingerprint",
    "get_protocol",
    "list_protocols",
    "published_numbers",
]
