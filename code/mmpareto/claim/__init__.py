"""Which part of MMPareto does the work: what code/claim.py trains, and makes of it."""
