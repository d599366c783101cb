"""`crayon eval`: how good the device's answers are; the measuring itself is in `crayon.lab.eval`."""
