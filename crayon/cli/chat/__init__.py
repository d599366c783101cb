"""`crayon chat`: the read-eval-print loop, its prompt, what is typed ahead, and the transcript."""
