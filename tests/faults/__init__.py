"""Proof by faults: real servers, a counted load, an injected fault, and a comparison by key."""
