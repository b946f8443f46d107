"""The roles of nodes, and what the coordinator may ask of them; apart, so that naming them imports nothing."""

SITE, PARTY, DEALER = "site", "party", "dealer"
"""The roles of nodes."""

TRAIN, QUERY = "train", "query"
AGGREGATE, DEAL = "aggregate", "deal"
"""Actions of Flower's query messages, for parties and for the dealer."""

SUM_UP, DEAL_OUT = f"{QUERY}.{AGGREGATE}", f"{QUERY}.{DEAL}"
"""The same as whole message types."""
