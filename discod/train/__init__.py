"""Training: understands vectors that it does not move (floors 3 and 4)."""
