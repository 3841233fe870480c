"""Speed of each stage, measured against the usual way of doing it, after checking that both compute the same."""
