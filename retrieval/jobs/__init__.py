"""Batch jobs: a source of any size becomes an index folder, shard by shard."""
