"""`iotistica doctor`: small checks that change nothing, and what to do about what they find."""
