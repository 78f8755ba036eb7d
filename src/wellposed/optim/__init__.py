"""``minimize``: terms enforced with any optimizer, averaging, schedules."""
