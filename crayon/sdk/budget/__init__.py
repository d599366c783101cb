"""What the server may cost, what it has cost, and the speeds and conditions that were measured on the way."""
