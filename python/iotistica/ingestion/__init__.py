"""Ingestion: the Redis Streams consumer that writes telemetry to PostgreSQL."""
