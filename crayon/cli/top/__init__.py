"""`crayon top`: a server watched, figure by figure."""
