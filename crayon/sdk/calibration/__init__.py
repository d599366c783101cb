"""Calibrating: who answers a task better is labelled, fitted, kept in files and loaded again."""
