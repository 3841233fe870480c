"""Speed of each stage compared with a common implementation, after a check that both give the same results."""
