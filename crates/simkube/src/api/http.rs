//! As much of HTTP/1.1 as the API's clients use; what is too long or no HTTP ends the connection.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde_json::Value;

const HEAD: usize = 32 << 10;
/// The API server's own limit of a request's body.
const BODY: usize = 3 << 20;

pub(super) struct Request {
    pub method: String,
    pub path: String,
    pub query: BTreeMap<String, String>,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// Bytes of head and body.
    pub size: usize,
    /// The body is longer than is taken.
    pub large: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }
}

pub(super) struct Answer {
    pub code: u16,
    pub body: Value,
    /// "Retry-After", seconds.
    pub wait: Option<u64>,
}

impl Answer {
    pub fn ok(body: Value) -> Self {
        Answer { code: 200, body, wait: None }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The next request; none where the client went away.
pub(super) fn read(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    let mut byte = [0u8; 1];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
        if head.len() > HEAD {
            return Err(bad("the head is too long"));
        }
    }
    let mut size = head.len();
    let head = String::from_utf8(head).map_err(|_| bad("the head is no text"))?;
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(Ok(0), |text| text.parse::<usize>());
    let length = length.map_err(|_| bad("the body's length"))?;
    let large = length > BODY;
    let mut body = vec![0; if large { 0 } else { length }];
    stream.read_exact(&mut body)?;
    size += body.len();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decoded(key), decoded(value)))
        .collect();
    Ok(Some(Request { method, path: decoded(path), query, headers, body, size, large }))
}

/// Bytes written.
pub(super) fn write(stream: &mut impl Write, answer: &Answer) -> io::Result<usize> {
    let body = answer.body.to_string();
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.code, reason(answer.code));
    head.push_str(&common());
    if let Some(wait) = answer.wait {
        head.push_str(&format!("Retry-After: {wait}\r\n"));
    }
    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()?;
    Ok(head.len() + body.len())
}

/// The head of a watch's answer.
pub(super) fn begin_stream(stream: &mut impl Write) -> io::Result<usize> {
    let head = format!("HTTP/1.1 200 OK\r\n{}Transfer-Encoding: chunked\r\n\r\n", common());
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    Ok(head.len())
}

/// One event; none ends the stream.
pub(super) fn chunk(stream: &mut impl Write, event: Option<&Value>) -> io::Result<usize> {
    let text = match event {
        Some(event) => {
            let line = format!("{event}\n");
            format!("{:x}\r\n{line}\r\n", line.len())
        }
        None => "0\r\n\r\n".to_owned(),
    };
    stream.write_all(text.as_bytes())?;
    stream.flush()?;
    Ok(text.len())
}

/// The headers that the real one sends with every answer, for their length.
fn common() -> String {
    let uid = "11111111-1111-4111-8111-111111111111";
    format!(
        "Audit-Id: {uid}\r\nCache-Control: no-cache, private\r\nContent-Type: application/json\r\n\
         X-Kubernetes-Pf-Flowschema-Uid: {uid}\r\nX-Kubernetes-Pf-Prioritylevel-Uid: {uid}\r\nServer: simulated\r\n\
         Date: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    )
}

fn reason(code: u16) -> &'static str {
    match code {
        200 => "OK",
        201 => "Created",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        409 => "Conflict",
        410 => "Gone",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Entity",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let value = std::str::from_utf8(&digits).ok().and_then(|text| u8::from_str_radix(text, 16).ok());
                out.push(value.unwrap_or(b'?'));
            }
            other => out.push(other),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
