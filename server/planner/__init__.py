"""NanoFlow's search for a pipeline, over published times: which pieces of which operations run when, with which share.

Two mixed integer programs, as in the paper: `structure` cuts and orders, `shares` divides the GPU among what overlaps.
Pure data in, decision out; needs the extra 'plan' (SciPy's HiGHS).
"""

from crayon.server.planner.checker import faults
from crayon.server.planner.interference import performance
from crayon.server.planner.operations import Class, Operation, Workload, llama2_70b
from crayon.server.planner.pipeline import Piece, Pipeline, sequential
from crayon.server.planner.search import Found, search

__all__ = [
    "Class",
    "Found",
    "Operation",
    "Piece",
    "Pipeline",
    "Workload",
    "faults",
    "llama2_70b",
    "performance",
    "search",
    "sequential",
]
