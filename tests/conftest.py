"""Puts this folder on the path, so that tests of all packages can share ``media`` and other makers of real files."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
