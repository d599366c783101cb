"""The laboratory: benches and evaluations. Only the command line may import it; nothing here serves a question."""
