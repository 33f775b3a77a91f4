"""The few errors of the appliance. Each tells its caller what to do: retry, bury or stop.

A message is a full sentence for the person who reads it and names the setting to change where there is one.
"""

from __future__ import annotations


class EdgeError(Exception):
    """The root of every error the appliance raises on purpose."""


class Unavailable(EdgeError):
    """A part we depend on does not answer. Retry later; nothing was lost."""


class Rejected(EdgeError):
    """The input itself is wrong. Retrying cannot help: quarantine it with this reason."""


class Stop(EdgeError):
    """The appliance cannot go on until a person changes something. End the process with this sentence."""
