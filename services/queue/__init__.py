"""The job queue: chat completions that are stored first and answered later, and that survive crashes and
outages.

Jobs are in a SQLite or PostgreSQL database, which several processes may share. This package stores, claims,
runs and ends jobs, posts webhooks, and serves QueueService. It does not generate text itself: a job runs as a
chat completion of `services/api`.
"""

#: What other packages may import, by module.
FACE = {"job_queue": ("JobQueue",), "servicer": ("QueueServicer",)}
