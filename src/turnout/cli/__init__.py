"""What people type: `turnout`.

`commands/` declares verbs and options, and imports nothing but click, so that `--help` is quick; what they do is in the
modules beside it, imported when a verb runs. Everything goes through the public `Client` and `Worker` where they
suffice.
"""
