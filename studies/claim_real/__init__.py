"""The study of docs/claim_real.md, which puts MMPareto on trial on real recordings: see run.py."""
