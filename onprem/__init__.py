"""On-prem door: FastAPI on the core, with files and SQLite by default and PostgreSQL by URL."""
