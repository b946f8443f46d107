"""A federation as real processes: certificates, node keys, roles, supervision, and a launcher for one machine."""
