//! 200 clients at once among those who never ask, never read, ask without end and speak nonsense.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use watch::serve::simulated;

use super::client::{ask, get, options, start};

/// Half a connection pair each is ours, too.
fn many_files() -> bool {
    let limit = getrlimit(Resource::Nofile);
    let wanted = 8192;
    if limit.maximum.is_some_and(|most| most < wanted) {
        println!("SKIP: no {wanted} open files are allowed here");
        return false;
    }
    setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum }).is_ok()
}

/// Bytes that this process keeps in memory, clients and all.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Asks again and again over one connection that is kept.
fn honest(address: SocketAddr, stop: &AtomicBool, took: &Mutex<Vec<Duration>>, failed: &AtomicU64) {
    let mut stream = TcpStream::connect(address).ok();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let answered = stream.as_mut().is_some_and(|stream| one(stream).is_some());
        if answered {
            took.lock().expect("a list").push(begun.elapsed());
        } else {
            failed.fetch_add(1, Ordering::Relaxed);
            stream = TcpStream::connect(address).ok();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn one(stream: &mut TcpStream) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").ok()?;
    let (mut bytes, mut piece) = (Vec::new(), [0; 16 << 10]);
    loop {
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&piece[..count]);
        let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let length: usize = head.split("content-length: ").nth(1)?.lines().next()?.parse().ok()?;
        if bytes.len() >= end + 4 + length {
            return head.starts_with("http/1.1 200").then_some(());
        }
    }
}

#[test]
fn two_hundred_clients_among_the_hostile() {
    if !many_files() {
        return;
    }
    let (server, address) = start(options(), simulated::h100x8);
    let before = resident();
    let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let took = Arc::<Mutex<Vec<Duration>>>::default();
    let clients: Vec<_> = (0..200)
        .map(|_| {
            let (stop, took, failed) = (Arc::clone(&stop), Arc::clone(&took), Arc::clone(&failed));
            let thread = std::thread::Builder::new().stack_size(256 << 10);
            thread.spawn(move || honest(address, &stop, &took, &failed)).expect("a thread")
        })
        .collect();
    std::thread::sleep(Duration::from_millis(800));

    // never asks, or asks by a byte at a time: more than there are places
    let mut idle: Vec<TcpStream> = (0..700).filter_map(|_| TcpStream::connect(address).ok()).collect();
    // never reads, and asks for much
    let greedy: Vec<TcpStream> = (0..40)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(address).ok()?;
            stream.set_write_timeout(Some(Duration::from_millis(200))).ok()?;
            let many = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(400);
            let _ = stream.write_all(many.as_bytes());
            Some(stream)
        })
        .collect();
    let huge = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "A: b\r\n".repeat(500));
    for round in 0..20u32 {
        for (n, stream) in idle.iter_mut().enumerate() {
            if n % 3 == 0 {
                let _ = stream.write_all(b"G");
            }
        }
        for bad in [huge.as_str(), many.as_str()] {
            let mut stream = TcpStream::connect(address).expect("a connection");
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            let _ = stream.write_all(bad.as_bytes());
            let mut said = [0; 16];
            let count = stream.read(&mut said).unwrap_or(0);
            let said = String::from_utf8_lossy(&said[..count]);
            assert!(said.is_empty() || said.starts_with("HTTP/1.1 4"), "{said}");
        }
        let noise: Vec<u8> =
            (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761).wrapping_add(round * 97) >> 13) as u8).collect();
        if let Ok(mut stream) = TcpStream::connect(address) {
            let _ = stream.write_all(&noise);
        }
        if let Ok(mut stream) = TcpStream::connect(address) {
            let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
            let _ = stream.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n");
            let _ = stream.write_all(&vec![0; 256 << 10]);
        }
        std::thread::sleep(Duration::from_millis(60));
    }
    let begun = Instant::now();
    assert_eq!(get(address, "/healthz").0, 200, "somebody new is let in");
    let new = begun.elapsed();
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().expect("a client"));
    let grown = resident().saturating_sub(before);
    let mut took = took.lock().expect("a list").clone();
    took.sort_unstable();
    let at = |part: usize| took[took.len() * part / 100];
    println!(
        "{} scrapes by 200 clients: p50 {:?}, p99 {:?}, {} refused; somebody new after {new:?}; memory {} MiB more, clients and all",
        took.len(),
        at(50),
        at(99),
        failed.load(Ordering::Relaxed),
        grown >> 20
    );
    assert!(took.len() > 200 && at(99) < Duration::from_secs(8), "{:?}", at(99));
    assert_eq!(failed.load(Ordering::Relaxed), 0, "whoever asks is not dropped for those who do not");
    assert!(new < Duration::from_secs(5), "{new:?}");
    assert!(grown < 160 << 20, "{} MiB", grown >> 20);
    drop((idle, greedy));
    let (status, _, body) = ask(address, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let dropped = body.lines().find_map(|line| line.strip_prefix("thruway_http_connections_dropped_total "));
    assert!(status == 200 && dropped.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > 100), "{dropped:?}");
    server.stop();
}
