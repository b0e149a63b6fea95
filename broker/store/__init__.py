"""The database and the object folder; the only place that speaks SQL. Start with `database.py`.

The storage is *not* trusted with keys or with the truth: whoever can write to it can stop the
broker, or make it refuse, but rows are compared with the log before use (`broker/log/state.py`),
DEKs lie in it only wrapped under a KEK of the HSM, and sealed files only as ciphertext.
"""
