"""Encoders, fusions, and what a model predicts."""
