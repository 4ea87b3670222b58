"""Private PostgreSQL, Redis and MQTT broker for `iotistica up` and for the tests."""
