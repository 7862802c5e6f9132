"""`halflayer doctor`: looks at an installation and says what to mend; mends nothing itself."""
