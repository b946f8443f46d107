"""Everything secret: randomness, shares, sealed reports, the roster, compute parties and their dealer."""
