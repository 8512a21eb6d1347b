"""``redis+cluster://``: leases in a Redis Cluster."""

from celery_locks.stores.redis.cluster.store import RedisClusterStore, open_cluster

__all__ = ["RedisClusterStore", "open_cluster"]
