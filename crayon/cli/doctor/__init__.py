"""`crayon doctor`: what to mend on this machine, check by check."""
