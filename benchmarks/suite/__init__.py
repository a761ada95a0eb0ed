"""The benchmark suite: inferd and its peers on one simulated runtime, under the same load, in one run.

A *front* is a server under test: inferd or one of its peers. A *cell* is one kind of load. The suite measures
the CPU time of each front in each cell. The suite measures no model. `python -m benchmarks.suite --help` says
how to run it.
"""
