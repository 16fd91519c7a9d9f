"""What came out of runs: tables over configurations, techniques and datasets."""
