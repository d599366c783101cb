"""How fast answers go over the wire: one server process, one client process, real gRPC on loopback."""

from crayon.lab.bench.wire.bench import WireOptions, bench_wire

__all__ = ["WireOptions", "bench_wire"]
