"""A question becomes ranked past cases: dense and lexical scores fused, facts from Postgres."""

from edge.search.calibration import BANDS, Bin, Calibration, Figures, band_of
from edge.search.engine import CASES, WEIGHTS, Ranking, SearchEngine, Weights
from edge.search.feedback import Feedback, Said, Topic, Word
from edge.search.filters import BadFilter, Filters, Where
from edge.search.fixes import Fix, FixReport, Interval, Like, PlaceCount, Recurrence
from edge.search.matches import Matcher, came_back
from edge.search.model import Answer, Asks, Band, Heard, Hit, Matched, Mode, Question, Span, Why
from edge.search.pages import Gone

__all__ = [
    "BANDS",
    "CASES",
    "WEIGHTS",
    "Answer",
    "Asks",
    "BadFilter",
    "Band",
    "Bin",
    "Calibration",
    "Feedback",
    "Figures",
    "Filters",
    "Fix",
    "FixReport",
    "Gone",
    "Heard",
    "Hit",
    "Interval",
    "Like",
    "Matched",
    "Matcher",
    "Mode",
    "PlaceCount",
    "Question",
    "Ranking",
    "Recurrence",
    "Said",
    "SearchEngine",
    "Span",
    "Topic",
    "Weights",
    "Where",
    "Why",
    "Word",
    "band_of",
    "came_back",
]
