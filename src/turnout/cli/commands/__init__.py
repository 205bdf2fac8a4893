"""The verbs and their options. Nothing but click is imported here before a verb runs."""
