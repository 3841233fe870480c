"""Side-by-side runs: one model or several under one protocol, watched, tabulated and written down."""
