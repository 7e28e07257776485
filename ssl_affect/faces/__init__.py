"""From video to face clips of one person each: find faces, follow them, crop them.

It lives in the library because feature extraction on raw video must crop exactly as the shard build did.
"""

from ssl_affect.faces.clips import FaceClip, RejectedTrack, face_clips, read_boxes
from ssl_affect.faces.detect import Detector, Face, create_detector, recipe_values

__all__ = [
    "Detector",
    "Face",
    "FaceClip",
    "RejectedTrack",
    "create_detector",
    "face_clips",
    "read_boxes",
    "recipe_values",
]
