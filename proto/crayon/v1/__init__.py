"""The protocol `crayon.v1`: stubs generated from the .proto files by tools/stubs.py."""
