"""The replay API: recorded real weather, served over HTTP in Open-Meteo's wire format, with a clock and faults.

It stands in for the live API on a laptop and in tests, and is reached as that one is: by URL. It is never deployed.
"""
