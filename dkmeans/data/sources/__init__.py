"""Where rows come from: each module turns one kind of thing into sources."""
