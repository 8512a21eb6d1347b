"""What locks tell to those who watch a whole site: metrics, Celery events, traces.

All of it hears the outcomes of `celery_locks.audit`; where nothing is asked for nobody listens, and a run pays nothing.
"""
