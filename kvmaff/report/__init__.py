"""What people look at: tables of hosts, guests and what was done (needs the extra ``cli``)."""
