"""How long a step takes: its model, the fit of its numbers, what is learnt while serving, and sizes that follow."""
