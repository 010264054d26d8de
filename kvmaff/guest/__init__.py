"""Running guests: which processes they are, and which thread does what. Only reads."""
