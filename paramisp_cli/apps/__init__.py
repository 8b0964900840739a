"""Applications: functions over conversions, one module for each; no command line."""
