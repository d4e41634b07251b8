"""The keeping of pools: polls, and what is written for each item before it leaves the queue."""
