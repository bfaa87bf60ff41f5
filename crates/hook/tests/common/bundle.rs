//! Containers for tests.
