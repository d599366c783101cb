"""The auto-search of NanoFlow's paper: which pieces of which operations run when, and with which share of the GPU.

This is the one room that holds it. It plans over published times (LLaMA-2-70B on eight A100s, `llama2_70b`) and says
what the pipeline would take; `crayon tune paper` prints that beside what the paper measured. No engine runs by its
plans: `server/tuning` finds how a server works best on a machine, by a fitted cost and by measuring.

Two mixed integer programs, as in the paper: `structure` cuts and orders, `shares` divides the GPU among what overlaps.
Pure data in, decision out; needs the extra 'plan' (SciPy's HiGHS).
"""

from crayon.server.planner.checker import faults
from crayon.server.planner.interference import performance
from crayon.server.planner.operations import Class, LayerWorkload, Operation, llama2_70b
from crayon.server.planner.pipeline import NanoOperation, Pipeline, sequential
from crayon.server.planner.search import BestPlan, search

__all__ = [
    "BestPlan",
    "Class",
    "LayerWorkload",
    "NanoOperation",
    "Operation",
    "Pipeline",
    "faults",
    "llama2_70b",
    "performance",
    "search",
    "sequential",
]
