"""Measurements against peers and floors, each in the same run; `make bench` writes `bench/results/`."""
