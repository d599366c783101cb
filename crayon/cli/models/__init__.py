"""`crayon models`: list, fetch, inspect, prepare, export and remove models, and how many requests fit."""
