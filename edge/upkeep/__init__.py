"""When things run (APScheduler), and what runs: reconciliation, retention, snapshots."""

from edge.upkeep.jobs import scheduler

__all__ = ["scheduler"]
