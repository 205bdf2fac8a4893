"""An activity, and a program's own logging."""

import logging.config

from turnout import activity

logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"mine": {"format": "MINE %(levelname)s %(message)s job=%(turnout_job)s trace=%(trace_id)s"}},
        "handlers": {"err": {"class": "logging.StreamHandler", "formatter": "mine"}},
        "root": {"handlers": ["err"], "level": "INFO"},
    }
)


@activity
async def chat() -> None:
    logging.getLogger("some.library").info("hello")
