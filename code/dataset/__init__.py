"""Maps of folders, lists, tar archives and Parquet files, stored as Parquet; and their reader.

The contract is the shard (`shard.py`): entries in, one Parquet file out, whole or not at all. What
is there is skipped. That gives resuming, exactly-once output and retries under any executor: the
loop in `run.py`, Ray in `on_ray.py`, or your own.
"""
