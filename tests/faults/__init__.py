"""Load on a server whose processes are rolled, reloaded, scaled, killed and stopped: is any lost?

`python -m tests.faults` is the long form; `tests/supervisor/test_faults.py` has a short one.
"""
