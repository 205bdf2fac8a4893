"""Two real workers: `workers.media` converts videos, `workers.audit` audits customers' histories.

They import the public root of turnout alone, so they double as a test of its API. Start one with

    turnout worker workers.media
"""
