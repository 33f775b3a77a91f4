"""Texts become vectors and lexical terms: the only importer of onnxruntime, and the owner of every fingerprint."""

from edge.embedding.bench import Speed, measure_speed
from edge.embedding.encoder import DIMENSION, TEXT_RULE, Encoder, EncoderStats
from edge.embedding.lexical import SparseTerms, Term, sparse_terms, term_index, terms
from edge.embedding.manifest import chosen_export
from edge.embedding.starter import ensure_built, use_words
from edge.embedding.taught import RowError, Words
from edge.embedding.text import Language, detect_language, normalise

__all__ = [
    "DIMENSION",
    "TEXT_RULE",
    "Encoder",
    "EncoderStats",
    "Language",
    "RowError",
    "SparseTerms",
    "Speed",
    "Term",
    "Words",
    "chosen_export",
    "detect_language",
    "ensure_built",
    "measure_speed",
    "normalise",
    "sparse_terms",
    "term_index",
    "terms",
    "use_words",
]
