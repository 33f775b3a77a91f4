"""Events → sessions and findings → cases."""

from edge.analytics.interpret import Interpreter
from edge.analytics.workbook import Workbook

__all__ = ["Interpreter", "Workbook"]
