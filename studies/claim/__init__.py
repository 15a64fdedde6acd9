"""The study of docs/claim.md, which asks what part of MMPareto does the work: see run.py."""
