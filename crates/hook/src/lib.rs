//! What is done inside a container's root before its first process: links, the loader's cache, compatibility, guards.
//! The root is hostile: it is opened once, and every name in it is resolved by the kernel below that descriptor.
