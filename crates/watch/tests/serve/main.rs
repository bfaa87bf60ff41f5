//! The exporter and the page as strangers meet them: goldens, HTTP and TLS by hand, Debian's prometheus, Chromium, and a hammer.
//! Cards and the way are simulated.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "runs prometheus, promtool, Chromium and openssl, in directories of its own"
)]

mod client;
mod golden;
mod hammer;
mod http;
mod page;
mod prometheus;
mod shipped;
