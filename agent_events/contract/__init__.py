"""What the doors promise, for machines: OpenAPI for HTTP, AsyncAPI for what the streams send.

Owns the two documents, as Python dicts, and what the page about them shows. Promises that they are
those of the settings in force, and that tests hold each against a server's real answers. Pure, but
for the settings handed in; serving them is a matter of `spec_door`.
"""
