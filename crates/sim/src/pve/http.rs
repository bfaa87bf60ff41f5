//! Proxmox VE's requests and answers over HTTP.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde_json::Value;

use crate::http::{self, Raw};

pub(super) struct Request {
    pub method: String,
    /// Without /api2/json and the query.
    pub path: String,
    pub headers: BTreeMap<String, String>,
    /// The query's and the form's parameters.
    pub params: Vec<(String, String)>,
}

pub(super) struct Answer {
    pub status: u16,
    pub body: Value,
}

/// The next request; none where the client went away.
pub(super) fn read(stream: &mut impl Read) -> io::Result<Option<Request>> {
    let Some(Raw { method, target, headers, body }) = http::read(stream)? else { return Ok(None) };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = path.strip_prefix("/api2/json").ok_or_else(|| http::bad("not below /api2/json"))?;
    let mut params = form(query);
    params.extend(form(&String::from_utf8_lossy(&body)));
    Ok(Some(Request { method, path: decoded(path), headers, params }))
}

pub(super) fn write(stream: &mut impl Write, answer: &Answer) -> io::Result<()> {
    let body = answer.body.to_string();
    // The real one says what is wrong in the status line, too: older clients read it only there.
    let reason = answer.body.get("message").and_then(Value::as_str).and_then(|text| text.lines().next());
    let plain = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let reason: String = reason.unwrap_or("simulated").chars().map(plain).collect();
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: application/json;charset=UTF-8\r\nServer: pve-api-daemon/3.0 (simulated)\r\n\
         Content-Length: {}\r\n\r\n",
        answer.status,
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

fn form(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decoded(k), decoded(v))).collect()
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
