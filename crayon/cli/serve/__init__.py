"""`crayon serve`: the settings of a server as options, who may call, what is shown, and its life under a manager."""
