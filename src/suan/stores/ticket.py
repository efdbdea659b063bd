"""The hash by which a source knows the secret of a fetch. Made in one place, so that grid and sites agree."""

import hashlib


def ticket_hash(secret: str) -> str:
    """BLAKE2b-256 of a ticket's secret, hex. Secrets are random and long: no salt, no stretching."""
    return hashlib.blake2b(secret.encode(), digest_size=32).hexdigest()
