//! A scrape of eight simulated H100 with 64 processes: time, processor and memory, beside a bare TCP answer of the same size.
//! The server is a process of its own: this program again, with `--server`.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a bench: starts itself, reads /proc, prints"
)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use watch::serve::{Listen, Options, Server, simulated};

const SCRAPES: usize = 3000;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("--server") => server(Duration::ZERO),
        Some("--server-fresh") => server(Duration::from_secs(3600)),
        Some("--bare") => bare(),
        _ => measure(),
    }
}

fn server(fresh: Duration) {
    let listen = vec![Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))];
    let options = Options { listen, fresh, every: Duration::from_secs(3600), ..Options::default() };
    let server = Server::start(options, simulated::h100x8, simulated::chain).unwrap();
    println!("{}", server.addresses[0]);
    loop {
        std::thread::park();
    }
}

/// The least that answers a request: a ready text of a scrape's size.
fn bare() {
    let options = Options::default();
    let text =
        watch::serve::render(&simulated::h100x8(), &simulated::chain(), &options, watch::serve::Form::Prometheus);
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut some = [0; 4096];
        while stream.read(&mut some).is_ok_and(|count| count > 0) {
            if stream.write_all(answer.as_bytes()).is_err() {
                break;
            }
        }
    }
}

struct Other {
    child: Child,
    address: SocketAddr,
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(what: &str) -> Other {
    let mut child = Command::new(std::env::current_exe().unwrap()).arg(what).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    Other { child, address: line.trim().parse().unwrap() }
}

impl Other {
    /// Processor time of it so far, in seconds: utime and stime of /proc/PID/stat, 100 a second.
    fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// MiB that it keeps in memory.
    fn resident(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

/// The times of so many requests over one connection, sorted, and the bytes of the last answer.
fn scrapes(address: SocketAddr, path: &str, count: usize) -> (Vec<Duration>, usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (mut took, mut size, mut bytes) = (Vec::with_capacity(count), 0, vec![0; 1 << 20]);
    for _ in 0..count {
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).unwrap();
        let (mut have, mut want) = (0, usize::MAX);
        while have < want {
            let more = stream.read(&mut bytes[have..]).unwrap();
            assert!(more > 0, "the server went away");
            have += more;
            if want == usize::MAX
                && let Some(end) = bytes[..have].windows(4).position(|end| end == b"\r\n\r\n")
            {
                let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                want = end
                    + 4
                    + head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse::<usize>().unwrap();
            }
        }
        took.push(begun.elapsed());
        size = have;
    }
    took.sort_unstable();
    (took, size)
}

fn line(what: &str, took: &[Duration], limit: &str) {
    let at = |part: usize| took[took.len() * part / 1000];
    println!("{what:<44} p50 {:>9.1?}  p99 {:>9.1?}  most {:>9.1?}  {limit}", at(500), at(990), at(999));
}

fn measure() {
    let (floor, serving, ready) = (start("--bare"), start("--server"), start("--server-fresh"));
    std::thread::sleep(Duration::from_millis(300));
    for other in [&floor, &serving, &ready] {
        scrapes(other.address, "/metrics", 50);
    }
    let (took, size) = scrapes(floor.address, "/metrics", SCRAPES);
    println!("8 simulated H100, 64 processes, {size} bytes a scrape; {SCRAPES} scrapes each");
    line("floor: a ready text over bare TCP", &took, "");
    let (took, _) = scrapes(ready.address, "/metrics", SCRAPES);
    line("a sample that is fresh", &took, "");
    let before = serving.cpu();
    let (took, size) = scrapes(serving.address, "/metrics", SCRAPES);
    let each = (serving.cpu() - before) / SCRAPES as f64;
    line("a look and a text made for each scrape", &took, "limit: p99 5 ms");
    println!(
        "{size} bytes; processor {:.0} us a scrape: {:.4} % of a core at one each 15 s, limit 0.2 %",
        each * 1e6,
        each / 15.0 * 100.0
    );
    let (took, size) = scrapes(serving.address, "/", 300);
    line("the page, made for each request", &took, &format!("{size} bytes"));
    println!(
        "resident after all this: {:.1} MiB, limit 16 MiB (bare TCP: {:.1} MiB)",
        serving.resident(),
        floor.resident()
    );
}
