"""Target states: what an agent should be, as values. Pure: knows no server."""
