"""What is expected: how long answers get, and how full the cache of keys and values becomes."""
