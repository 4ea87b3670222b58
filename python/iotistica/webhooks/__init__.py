"""Webhooks: whom alerts are told to, and how that is proved and kept harmless."""
