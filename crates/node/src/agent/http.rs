//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1: GET alone, nothing can be changed here.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::state::{Counters, Picture};

/// A request's head is no longer, and is sent in this time.
const HEAD: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(5);
/// So many are answered at once; the others wait.
const MOST: usize = 16;

pub type Shown = Arc<Mutex<Picture>>;

/// # Errors
/// The address cannot be had.
pub async fn serve(address: SocketAddr, shown: Shown, counters: Arc<Counters>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let room = Arc::new(Semaphore::new(MOST));
    tokio::spawn(async move {
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (shown, counters) = (Arc::clone(&shown), Arc::clone(&counters));
            tokio::spawn(async move {
                let _permit = permit;
                let _ = tokio::time::timeout(PATIENCE, answer(stream, &shown, &counters)).await;
            });
        }
    });
    Ok(())
}

async fn answer(mut stream: TcpStream, shown: &Shown, counters: &Counters) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = String::from_utf8_lossy(&head);
    let picture = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let (status, kind, body) = respond(text.lines().next().unwrap_or_default(), &picture, counters);
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\
         Cache-Control: no-store\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

const TEXT: &str = "text/plain; charset=utf-8";

/// By the request's first line: (status, content type, body).
fn respond(line: &str, picture: &Picture, counters: &Counters) -> (&'static str, &'static str, String) {
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if method != "GET" {
        return ("405 Method Not Allowed", TEXT, "GET alone\n".into());
    }
    match target.split('?').next().unwrap_or_default() {
        "/metrics" => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", picture.metrics(counters)),
        "/healthz" => ("200 OK", TEXT, "ok\n".into()),
        "/readyz" => match picture.ready() {
            Ok(()) => ("200 OK", TEXT, "ok\n".into()),
            Err(why) => ("503 Service Unavailable", TEXT, why + "\n"),
        },
        _ => ("404 Not Found", TEXT, "/metrics, /healthz, /readyz\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_answered_and_nothing_else() {
        let (counters, mut picture) = (Counters::default(), Picture { looked: true, ..Picture::default() });
        let status = |line: &str, picture: &Picture| respond(line, picture, &counters).0;
        assert_eq!(status("GET /readyz HTTP/1.1", &picture), "200 OK");
        assert_eq!(status("POST /readyz HTTP/1.1", &picture), "405 Method Not Allowed");
        assert_eq!(status("GET /secret HTTP/1.1", &picture), "404 Not Found");
        assert_eq!(status("", &picture), "405 Method Not Allowed");
        picture.trouble.push("another plugin".into());
        let (status, _, body) = respond("GET /readyz HTTP/1.1", &picture, &counters);
        assert_eq!((status, body.as_str()), ("503 Service Unavailable", "another plugin\n"));
    }

    #[test]
    fn metrics_quote_what_would_end_a_label() {
        let mut picture = Picture::default();
        picture.away.insert("GPU-1".into(), "said \"no\"\nand \\ went".into());
        counters_shown(&picture);
        let text = picture.metrics(&Counters::default());
        assert!(text.contains(r#"why="said \"no\" and \\ went""#), "{text}");
    }

    fn counters_shown(picture: &Picture) {
        let counters = Counters::default();
        counters.allocated(Duration::from_micros(200), true);
        counters.allocated(Duration::from_secs(9), false);
        let text = picture.metrics(&counters);
        assert!(text.contains("thruway_node_allocate_seconds_bucket{le=\"0.0003\"} 1\n"), "{text}");
        assert!(text.contains("thruway_node_allocate_seconds_count 2\n"), "{text}");
    }
}
