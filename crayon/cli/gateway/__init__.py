"""`crayon gateway`."""
