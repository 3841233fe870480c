"""Speed of each stage beside a common implementation, after checking that both compute the same."""
