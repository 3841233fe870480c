"""Compare models under one protocol: runs, tables, statistics, reports and speed measurements."""
