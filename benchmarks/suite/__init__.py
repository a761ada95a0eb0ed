"""The benchmark suite: inferd and its peers over one simulated runtime, under the same load, in one run.

It proves nothing about models. `python -m benchmarks.suite --help` tells how to run it.
"""
