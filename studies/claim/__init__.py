"""Which part of MMPareto does the work: what studies/claim/run.py trains, and makes of it."""
