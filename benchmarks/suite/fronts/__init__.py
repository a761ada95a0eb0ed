"""The fronts that are compared: one module for each, which starts it."""

from collections.abc import Callable, Mapping

from benchmarks.suite.front import Context, Front
from benchmarks.suite.fronts.bridges import start_bridge, start_envoy
from benchmarks.suite.fronts.dynamo import start_dynamo
from benchmarks.suite.fronts.floor import start_floor
from benchmarks.suite.fronts.inferd import start_inferd
from benchmarks.suite.fronts.litellm import start_litellm
from benchmarks.suite.fronts.sglang import start_sglang
from benchmarks.suite.fronts.smg import start_smg

#: The function that starts each front, in the order in which they are measured.
FRONTS: Mapping[str, Callable[[Context], Front]] = {
    "inferd": start_inferd,
    "smg": start_smg,
    "dynamo": start_dynamo,
    "litellm": start_litellm,
    "sglang": start_sglang,
    "bridge": start_bridge,
    "envoy": start_envoy,
    "floor": start_floor,
}
