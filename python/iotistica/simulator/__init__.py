"""A fleet of agents that behave as real ones do."""
