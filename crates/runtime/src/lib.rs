//! The OCI runtime shim and the prestart hook: a container's request in, its configuration or its namespaces changed.
