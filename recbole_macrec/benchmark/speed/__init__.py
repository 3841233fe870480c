"""Speed and memory of each stage, several of them beside a common implementation."""
