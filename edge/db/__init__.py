"""PostgreSQL, the truth. The only importer of psycopg."""

from edge.db.database import Database, Row, Transaction
from edge.db.migrate import behind, migrate

__all__ = ["Database", "Row", "Transaction", "behind", "migrate"]
