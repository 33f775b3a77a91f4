"""From a published sentence encoder to a verified model folder: reference, graph, gate. The box itself loads none of it.

PyTorch and what belongs to it are imported here only, and only where the reference is made.
"""

from edge.embedding.export.gate import BAR, Fidelity, golden_sentences
from edge.embedding.export.making import TARGETS, Exported, Progress, export_model
from edge.embedding.export.verifying import Verified, verify_model

__all__ = [
    "BAR",
    "TARGETS",
    "Exported",
    "Fidelity",
    "Progress",
    "Verified",
    "export_model",
    "golden_sentences",
    "verify_model",
]
