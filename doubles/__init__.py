"""Stand-ins for the outside world: GitHub, live APIs, DagsHub; for tests, scripts and benchmarks."""
