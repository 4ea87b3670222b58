"""`iotistica dlq`: what could not be stored, why, and how to bring it in after all."""
