"""Where tasks run: threads, processes, and backends of others."""
