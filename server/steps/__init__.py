"""What a step is made of: requests with their rows, the limits of a step, and its plan."""
