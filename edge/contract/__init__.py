"""What may come in. A message goes in, one `Reading` comes out, or `Rejected` with the reason in words."""

from edge.contract.frigate import Frigate
from edge.contract.message import Message, identify, interpret
from edge.contract.native import KINDS, Identity, Reading
from edge.contract.strict_json import Limits

__all__ = ["KINDS", "Frigate", "Identity", "Limits", "Message", "Reading", "identify", "interpret"]
