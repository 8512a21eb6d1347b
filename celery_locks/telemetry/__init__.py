"""Metrics and Celery events of locks, for the monitoring of a site.

They are made from the outcomes that `celery_locks.audit` reports. A worker whose settings ask for neither subscribes to
no outcomes, so its runs pay nothing.
"""
