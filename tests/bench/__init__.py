"""The clock, and the contests, tables and reports that are made with it."""
