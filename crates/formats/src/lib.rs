//! Lossless text and binary formats: bytes in, bytes out, no I/O. One file a format; every parser keeps what it does
//! not understand, gives file-independent errors with a line, and never panics.

