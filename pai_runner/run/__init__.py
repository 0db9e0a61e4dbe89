"""From a Job to finished processes on one machine."""
