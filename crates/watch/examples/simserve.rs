//! A simulated server to look at: `cargo run -p thruway-watch --example simserve -- gt1030|h100x8|mig|hostile [PORT]`.
#![allow(clippy::print_stdout, reason = "says where it is")]

use std::time::{Duration, SystemTime};

use watch::serve::{Listen, Options, Server, simulated};

fn main() -> Result<(), String> {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_else(|| "gt1030".into());
    let port = words.next().and_then(|port| port.parse().ok()).unwrap_or(0);
    let make = match name.as_str() {
        "h100x8" => simulated::h100x8,
        "mig" => simulated::mig,
        "hostile" => simulated::hostile,
        _ => simulated::gt1030,
    };
    let listen = vec![Listen::Tcp(([127, 0, 0, 1], port).into())];
    let every = Duration::from_secs(2);
    let options = Options { listen, every, ..Options::default() };
    let begun = SystemTime::now();
    let now = move || simulated::moving(make(), begun, begun.elapsed().unwrap_or_default().as_secs_f64());
    let server = Server::start(options, now, simulated::chain)?;
    for address in &server.addresses {
        println!("http://{address}/ (simulated)");
    }
    loop {
        std::thread::park();
    }
}
