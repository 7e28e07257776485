"""Handing a network on: a run becomes a released folder, and weights become a graph that runs without this package.

``run`` writes the released folder. ``graph`` is the network with named inputs and outputs, ``facts`` what its user has to
know to feed it, ``writing`` turns it into ONNX or a ``torch.export`` program and checks the file before it takes its name.
"""

from ssl_affect.export.run import export, find_checkpoint
from ssl_affect.export.writing import FORMATS, TOLERANCES, export_graph

__all__ = ["FORMATS", "TOLERANCES", "export", "export_graph", "find_checkpoint"]
