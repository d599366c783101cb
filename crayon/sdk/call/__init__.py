"""What a call stands on: its options, the engines it may ask, customisations by name, and what may leave."""
