"""The remote engine: a Crayon server, spoken to over gRPC."""
