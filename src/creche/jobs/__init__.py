"""Jobs: commands that wait for their turn, each run in a container of its own, none of them lost."""

from creche.jobs.queue import Job, JobQueue
from creche.jobs.values import JobResult, JobState, Outcome, Progress, Retry

__all__ = ["Job", "JobQueue", "JobResult", "JobState", "Outcome", "Progress", "Retry"]
