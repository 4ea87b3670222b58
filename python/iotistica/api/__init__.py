"""Cloud API: MQTT subscriber (bridge) and REST gateway (web)."""
