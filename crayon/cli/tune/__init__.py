"""`crayon tune`: the search for a server's best plan, and its chart."""
