"""What code/benchmark.py measures: speed, as ratios within one run."""
