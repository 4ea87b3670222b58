"""Iotistica: an IoT cloud platform with a Rust-accelerated ingestion engine."""
