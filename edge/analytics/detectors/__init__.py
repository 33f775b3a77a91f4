"""Pure detectors: a state and an observation in, the next state and findings out."""

from edge.analytics.detectors.base import Detector, Standards, State, Tuning
from edge.analytics.detectors.tuning import DETECTORS, Tunings, read_tunings

__all__ = ["DETECTORS", "Detector", "Standards", "State", "Tuning", "Tunings", "read_tunings"]
