"""Andon Edge: has this happened before, and what fixed it?"""

__version__ = "0.1.0"
