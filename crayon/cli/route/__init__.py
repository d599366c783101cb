"""`crayon route` and `crayon calibrate`: what decides where a question goes, and setting that by measurement."""
