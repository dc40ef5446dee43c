"""The outside world, one owner per library: the Docker SDK, SQLite, host tools, database drivers."""
