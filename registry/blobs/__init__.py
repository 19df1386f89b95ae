"""The artifact store: bytes by digest and small named documents, local or on S3."""
