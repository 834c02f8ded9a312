"""Load on a server whose processes are rolled, scaled, killed and stopped meanwhile: is any request lost?

`python -m tests.faults` is the long form; `tests/supervisor/test_faults.py` has a short one.
"""
