"""Alert rules: what they say, and what they make of what is seen."""
