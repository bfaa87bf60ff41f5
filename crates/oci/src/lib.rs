//! What a container asks for and what it is given, as data: OCI configurations, requests, policy. No I/O.
