"""Schedules: files of PAI commands that are run at the times of a cron expression.

A run is a process, `pai -f FILE --cyctime TICK …`: nothing here knows what a job is.
"""
