"""`halflayer doctor`: checks an installation and suggests fixes; changes nothing."""
