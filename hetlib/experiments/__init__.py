"""Every experiment of the papers' released scripts and of ours, as data: its arms at every preset."""
