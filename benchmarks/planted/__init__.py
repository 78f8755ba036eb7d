"""Planted cases: trainings whose cause is known, by which `wp.diagnose` is judged. See the README beside this file."""
