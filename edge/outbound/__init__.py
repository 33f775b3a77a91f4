"""What goes out over HTTP: webhooks, each event signed, tried again, and kept when it could not be delivered."""

from edge.outbound.webhooks import Sender, Target, add, dead, every, remove, replay, test

__all__ = ["Sender", "Target", "add", "dead", "every", "remove", "replay", "test"]
