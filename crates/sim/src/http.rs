//! As much of HTTP/1.1 as the simulated APIs need; what is too long or no HTTP ends the connection.

use std::collections::BTreeMap;
use std::io::{self, Read};

const HEAD: usize = 16 << 10;
const BODY: usize = 1 << 20;

pub(crate) struct Raw {
    pub method: String,
    /// The path, and the query behind a `?`.
    pub target: String,
    /// Names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

pub(crate) fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The next request; none where the client went away.
pub(crate) fn read(stream: &mut impl Read) -> io::Result<Option<Raw>> {
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
    let head = String::from_utf8(head).map_err(|_| bad("the head is no text"))?;
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default().to_owned());
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(Ok(0), |text| text.parse::<usize>());
    let length = length.ok().filter(|length| *length <= BODY).ok_or_else(|| bad("the body's length"))?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(Raw { method, target, headers, body }))
}
