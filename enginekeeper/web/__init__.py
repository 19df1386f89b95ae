"""The service over HTTP: what agents say to it now, and where a console will be."""
