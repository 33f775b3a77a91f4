"""A simulated shift and the sample history: what a newcomer sees before the first real camera is connected."""

from edge.simulation.sample import load_sample, load_sample_documents
from edge.simulation.shift import Shift, publish

__all__ = ["Shift", "load_sample", "load_sample_documents", "publish"]
