"""The gRPC server: service shell, scheduler and engines."""
