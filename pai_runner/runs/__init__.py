"""Commands that are run with retries, once a date, one at a time: what schedulers need."""
