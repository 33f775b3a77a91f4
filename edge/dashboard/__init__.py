"""The dashboard: pages, fragments, JSON API, sign-in. The way in is `create_app`; `accounts` serves the command."""

from edge.dashboard.app import create_app

__all__ = ["create_app"]
