//! One pass over a text: at each place where a word begins, is this an identifier?

use std::collections::{BTreeMap, HashMap};

use super::learn::{self, Name};
use super::{ids, secret};
use crate::Memory;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Uuid,
    Mac,
    Ipv4,
    Ipv6,
    Mail,
    Secret,
    Host,
    Domain,
    User,
    Serial,
}

/// What kind of numbers a text holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Text,
    /// /proc/net and its like: addresses as hexadecimal words.
    Net,
    /// A package database: four numbers with dots are a version, of the package or of one that it needs.
    Packages,
}

/// What was replaced so far, so that the same secret gets the same pseudonym.
pub struct Redactor {
    /// By first byte, longest first.
    names: HashMap<u8, Vec<(Vec<u8>, Name)>>,
    numbers: BTreeMap<(Kind, String), usize>,
    counts: BTreeMap<Kind, usize>,
}

impl Redactor {
    /// Learns the names that only their places tell: hosts, users, serial numbers.
    pub(super) fn learn(memory: &Memory) -> Self {
        let mut names: HashMap<u8, Vec<(Vec<u8>, Name)>> = HashMap::new();
        for (name, what) in learn::names(memory) {
            if let Some(first) = name.bytes().next() {
                names.entry(first).or_default().push((name.into_bytes(), what));
            }
        }
        names.values_mut().for_each(|list| list.sort_by_key(|(name, _)| std::cmp::Reverse(name.len())));
        Redactor { names, numbers: BTreeMap::new(), counts: BTreeMap::new() }
    }

    fn number(&mut self, kind: Kind, original: &str) -> usize {
        let key = (kind, original.to_ascii_lowercase());
        if let Some(number) = self.numbers.get(&key) {
            return *number;
        }
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        self.numbers.insert(key, *count);
        *count
    }

    pub(super) fn text(&mut self, text: &str) -> String {
        String::from_utf8_lossy(&self.scan(text.as_bytes(), Place::Text)).into_owned()
    }

    /// A file's bytes. A binary file keeps its length and layout.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> Vec<u8> {
        let name = path.rsplit('/').next().unwrap_or_default();
        if path.starts_with("/sys/")
            && ids::is_serial_key(name)
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return self.serial(text).into_bytes();
        }
        let binary = std::str::from_utf8(bytes).is_err() || (bytes.contains(&0) && !path.starts_with("/proc/"));
        if binary {
            return self.binary(bytes);
        }
        match path {
            "/proc/version" => self.kernel_build(bytes),
            "/var/lib/dpkg/status" => self.scan(bytes, Place::Packages),
            _ if path.starts_with("/proc/") && path.contains("/net/") => self.scan(bytes, Place::Net),
            _ => self.scan(bytes, Place::Text),
        }
    }

    /// `Linux version RELEASE (user@host) …`: who built the kernel, and where (init/version.c, `LINUX_COMPILE_BY`).
    fn kernel_build(&mut self, bytes: &[u8]) -> Vec<u8> {
        let who = find(bytes, b" (").and_then(|at| {
            let inside = run(&bytes[at + 2..], |b| b != b')' && b != b'\n');
            let (user, host) = utf8(inside)?.split_once('@')?;
            Some((at + 2, inside.len(), user, host))
        });
        let plain = |name: &str| name.is_empty() || learn::is_common(name) || learn::is_own(name);
        let Some((at, length, user, host)) = who.filter(|(_, _, _, host)| !plain(host) && !host.contains('.')) else {
            return self.scan(bytes, Place::Text);
        };
        let user = self.home(user);
        let host = self.name(&host.to_ascii_lowercase(), Name::Host);
        let (before, after) = (&bytes[..at], &bytes[at + length..]);
        let (before, after) = (self.scan(before, Place::Text), self.scan(after, Place::Text));
        [&before[..], user.as_bytes(), b"@", host.as_bytes(), &after[..]].concat()
    }

    /// The printable runs, each filled up or cut to its old length.
    fn binary(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let printable = |byte: &u8| (0x20..0x7f).contains(byte) || *byte == b'\n' || *byte == b'\t';
        for run in bytes.chunk_by(|a, b| printable(a) == printable(b)) {
            if run.len() < 6 || !run.first().is_some_and(printable) {
                out.extend_from_slice(run);
                continue;
            }
            let mut new = self.scan(run, Place::Text);
            new.resize(run.len(), b'_');
            out.extend_from_slice(&new);
        }
        out
    }

    pub(super) fn secret(&mut self, text: &str) -> String {
        if secret::is_harmless(text) {
            return text.to_owned();
        }
        format!("REDACTED-{}", self.number(Kind::Secret, text))
    }

    pub(super) fn serial(&mut self, text: &str) -> String {
        let plain = text.trim();
        if ids::serial_stays(plain) {
            return text.to_owned();
        }
        let number = self.number(Kind::Serial, plain);
        text.replacen(plain, &ids::serial(plain, number), 1)
    }

    pub(super) fn home(&mut self, user: &str) -> String {
        if learn::is_common(user) || learn::is_own(user) {
            return user.to_owned();
        }
        format!("user-{}", self.number(Kind::User, user))
    }

    /// `ata-MODEL_SERIAL-part1`, `wwn-0x5002…`: a disk's name below /dev/disk/by-id.
    pub(super) fn by_id(&mut self, name: &str) -> String {
        let (body, part) = match name.rfind("-part") {
            Some(at) => name.split_at(at),
            None => (name, ""),
        };
        let cut = body.rfind('_').or_else(|| body.find('-')).map_or(0, |at| at + 1);
        let (front, mut serial) = body.split_at(cut);
        let mut mark = "";
        for start in ["0x", "eui.", "nvme."] {
            if let Some(rest) = serial.strip_prefix(start) {
                (mark, serial) = (start, rest);
            }
        }
        let known =
            front.starts_with("dm-name") || front.starts_with("lvm-") || !serial.bytes().any(|b| b.is_ascii_digit());
        let serial = if known { self.text(serial) } else { self.serial(serial) };
        format!("{front}{mark}{serial}{part}")
    }

    /// The short ids of FAT and NTFS file systems and MBR partitions; a full UUID is one like any other.
    pub(super) fn short_uuid(&mut self, text: &str) -> String {
        let fits = (8..=17).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
        if fits { self.serial(text) } else { self.text(text) }
    }

    fn name(&mut self, found: &str, what: Name) -> String {
        match what {
            Name::Host => {
                let single = found.replace("--", "-");
                let dashes = if found.contains("--") { "--" } else { "-" };
                format!("host{dashes}{}", self.number(Kind::Host, &single))
            }
            Name::Domain => format!("net-{}.invalid", self.number(Kind::Domain, found)),
            Name::User => format!("user-{}", self.number(Kind::User, found)),
            Name::Serial => self.serial(found),
        }
    }

    pub(super) fn scan(&mut self, text: &[u8], place: Place) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len() + 16);
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            match self.here(text, at, place) {
                Some((length, new)) if length > 0 => {
                    out.extend_from_slice(&new);
                    at += length;
                }
                _ => {
                    out.push(*byte);
                    at += 1;
                }
            }
        }
        out
    }

    /// What begins here, how long it is, and what stands for it.
    fn here(&mut self, text: &[u8], at: usize, place: Place) -> Option<(usize, Vec<u8>)> {
        let rest = text.get(at..)?;
        let before = at.checked_sub(1).and_then(|at| text.get(at)).copied();
        match rest.first()? {
            b'/' if rest.starts_with(b"/home/") => {
                let user = run(rest.get(6..)?, |b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
                let new = self.home(utf8(user)?);
                return Some((6 + user.len(), [b"/home/", new.as_bytes()].concat()));
            }
            b':' if rest.starts_with(b"://") => return self.userinfo(rest),
            b'-' if rest.starts_with(b"-----BEGIN ") => return self.pem(rest),
            b'=' | b':' => return self.assigned(text, at),
            b' ' | 0 => return self.argument(text, at),
            _ => {}
        }
        if before.is_some_and(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        if let Some(start) = secret::TOKENS.iter().find(|start| rest.starts_with(start)) {
            let token = run(rest, |b| b.is_ascii_alphanumeric() || b"+/=_.$-".contains(&b));
            if token.len() >= 16 {
                let new = self.secret(utf8(token)?);
                // What follows a public key on its line says whose it is.
                let tail = if start.starts_with(b"AAAA") {
                    run(&rest[token.len()..], |b| !b"\n\"'\0".contains(&b)).len()
                } else {
                    0
                };
                return Some((token.len() + tail, new.into_bytes()));
            }
        }
        if let Some(found) = self.mail(rest, before) {
            return Some(found);
        }
        let first = rest.first()?.to_ascii_lowercase();
        let hit = self.names.get(&first).and_then(|list| {
            list.iter().find(|(name, _)| {
                rest.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name))
                    && rest.get(name.len()).is_none_or(|b| !b.is_ascii_alphanumeric())
            })
        });
        if let Some((name, what)) = hit {
            let (length, what) = (name.len(), *what);
            let found = utf8(rest.get(..length)?)?.to_owned();
            return Some((length, self.name(&found, what).into_bytes()));
        }
        for start in [&b"enx"[..], b"wlx", b"wwx", b"fwln", b"fwpr"] {
            if let Some(tail) = rest.strip_prefix(start) {
                let hex = run(tail, |b| b.is_ascii_hexdigit());
                if hex.len() == 12 && tail.get(12).is_none_or(|b| !b.is_ascii_alphanumeric()) {
                    let new = self.mac(utf8(hex)?, None);
                    return Some((start.len() + 12, [start, new.as_bytes()].concat()));
                }
            }
        }
        for (start, id) in [(&b"by-id/"[..], true), (b"by-uuid/", false), (b"by-partuuid/", false)] {
            if let Some(tail) = rest.strip_prefix(start) {
                let name = run(tail, |b| b.is_ascii_alphanumeric() || b"-_.:+".contains(&b));
                let new = if id { self.by_id(utf8(name)?) } else { self.short_uuid(utf8(name)?) };
                return Some((start.len() + name.len(), [start, new.as_bytes()].concat()));
            }
        }
        if rest.starts_with(b"Bearer ") {
            let token = run(&rest[7..], |b| !b.is_ascii_whitespace() && !b"\"',\0".contains(&b));
            if token.len() >= 8 {
                let new = self.secret(utf8(token)?);
                return Some((7 + token.len(), [b"Bearer ", new.as_bytes()].concat()));
            }
        }
        if !rest.first()?.is_ascii_hexdigit() && rest.first() != Some(&b':') {
            return None;
        }
        self.number_like(text, at, place)
    }

    /// UUIDs, MACs and addresses.
    fn number_like(&mut self, text: &[u8], at: usize, place: Place) -> Option<(usize, Vec<u8>)> {
        let rest = text.get(at..)?;
        let ends = |length: usize| rest.get(length).is_none_or(|b| !b.is_ascii_alphanumeric());
        if let Some((length, dashes)) = ids::uuid_at(rest)
            && ends(length)
        {
            let hex: String =
                utf8(&rest[..length])?.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
            if ids::uuid_stays(&hex) {
                return Some((length, rest[..length].to_vec()));
            }
            let number = self.number(Kind::Uuid, &hex);
            return Some((length, ids::uuid(number, dashes).into_bytes()));
        }
        if let Some(length) = ids::mac_at(rest)
            && ends(length)
        {
            let separator = char::from(*rest.get(2)?);
            let hex: String = utf8(&rest[..length])?.chars().filter(|c| *c != separator).collect();
            return Some((length, self.mac(&hex, Some(separator)).into_bytes()));
        }
        match place {
            Place::Text => self.address(text, at),
            Place::Net => self.net_hex(rest).or_else(|| self.address(text, at)),
            Place::Packages => None,
        }
    }

    fn address(&mut self, text: &[u8], at: usize) -> Option<(usize, Vec<u8>)> {
        let rest = text.get(at..)?;
        let before = &text[..at];
        // Not the middle of a longer number, version or file name.
        let inside = match before {
            [.., b'.' | b'_'] => true,
            [.., other, b'-'] => !(other.is_ascii_digit() || other.is_ascii_whitespace()),
            _ => false,
        };
        if inside {
            return None;
        }
        if let Some((length, address)) = ids::ipv6_at(rest) {
            if ids::ipv6_stays(address) {
                return Some((length, rest[..length].to_vec()));
            }
            let number = self.number(Kind::Ipv6, &address.to_string());
            return Some((length, ids::ipv6(number).to_string().into_bytes()));
        }
        let (length, address) = ids::ipv4_at(rest)?;
        if ids::ipv4_stays(address) || is_version(before) {
            return Some((length, rest[..length].to_vec()));
        }
        let number = self.number(Kind::Ipv4, &address.to_string());
        Some((length, ids::ipv4(number).to_string().into_bytes()))
    }

    /// An IPv4 address as /proc/net has it: eight hex digits, little-endian, in `route` alone, in `tcp` with a port.
    fn net_hex(&mut self, rest: &[u8]) -> Option<(usize, Vec<u8>)> {
        let hex = run(rest, |b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
        let after = rest.get(8..).unwrap_or_default();
        let port = after.first() == Some(&b':') && run(&after[1..], |b| b.is_ascii_hexdigit()).len() == 4;
        if hex.len() != 8 || !(port || after.first() == Some(&b'\t')) {
            return None;
        }
        let address = std::net::Ipv4Addr::from(u32::from_str_radix(utf8(hex)?, 16).ok()?.swap_bytes());
        if ids::ipv4_stays(address) {
            return Some((8, hex.to_vec()));
        }
        let number = self.number(Kind::Ipv4, &address.to_string());
        Some((8, format!("{:08X}", u32::from(ids::ipv4(number)).swap_bytes()).into_bytes()))
    }

    fn mac(&mut self, hex: &str, separator: Option<char>) -> String {
        let hex = hex.to_ascii_lowercase();
        let groups = hex.len() / 2;
        let number = if ids::mac_stays(&hex) { usize::from_str_radix(&hex[6..], 16).ok() } else { None };
        if ids::mac_stays(&hex) && !hex.starts_with("020000") {
            let split: Vec<String> =
                hex.as_bytes().chunks(2).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
            return split.join(&separator.map(String::from).unwrap_or_default());
        }
        let number = number.unwrap_or_else(|| self.number(Kind::Mac, &hex));
        ids::mac(number, groups, separator)
    }

    fn mail(&mut self, rest: &[u8], before: Option<u8>) -> Option<(usize, Vec<u8>)> {
        let local = |b: u8| b.is_ascii_alphanumeric() || b"._%+-".contains(&b);
        if before.is_some_and(local) {
            return None;
        }
        let user = run(rest.get(..rest.len().min(65))?, local);
        let tail = rest.get(user.len()..)?.strip_prefix(b"@")?;
        let domain = run(tail.get(..tail.len().min(254))?, |b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        let domain = utf8(domain)?.trim_end_matches('.');
        let (_, top) = domain.rsplit_once('.')?;
        let unit =
            ["service", "socket", "device", "mount", "target", "timer", "slice", "scope", "path", "swap", "conf"];
        if user.is_empty() || top.len() < 2 || !top.bytes().all(|b| b.is_ascii_alphabetic()) || unit.contains(&top) {
            return None;
        }
        let length = user.len() + 1 + domain.len();
        if domain == "example.invalid" {
            return Some((length, rest[..length].to_vec()));
        }
        let number = self.number(Kind::Mail, utf8(&rest[..length])?);
        Some((length, format!("user-{number}@example.invalid").into_bytes()))
    }

    /// `://user:password@`.
    fn userinfo(&mut self, rest: &[u8]) -> Option<(usize, Vec<u8>)> {
        let info = run(&rest[3..], |b| !b.is_ascii_whitespace() && !b"/@\"'?#\0".contains(&b));
        if rest.get(3 + info.len()) != Some(&b'@') || !info.contains(&b':') {
            return None;
        }
        let new = self.secret(utf8(info)?);
        Some((3 + info.len(), [b"://", new.as_bytes()].concat()))
    }

    fn pem(&mut self, rest: &[u8]) -> Option<(usize, Vec<u8>)> {
        let head = run(rest, |b| b != b'\n' && b != b'\\').len();
        let end = find(rest, b"-----END ")?;
        let body = utf8(rest.get(head..end)?)?;
        let kept = |c: char| c.is_whitespace();
        let plain = body.trim_matches(kept);
        if plain.starts_with("REDACTED-") || plain.is_empty() {
            return Some((end, rest[..end].to_vec()));
        }
        let new = self.secret(plain);
        Some((end, [&rest[..head], b"\n", new.as_bytes(), b"\n"].concat()))
    }

    /// `key=value`, `key: value`, `"key": "value"`, where the key says that the value is a secret or a serial number.
    fn assigned(&mut self, text: &[u8], at: usize) -> Option<(usize, Vec<u8>)> {
        let front = text[..at].trim_ascii_end();
        let quotes = front.iter().rev().take_while(|b| b"\"'\\".contains(b)).count();
        let front = &front[..front.len() - quotes];
        let key = front.iter().rev().take(64).take_while(|b| b.is_ascii_alphanumeric() || b"_-.".contains(b)).count();
        let (line, key) = front.split_at(front.len() - key);
        let key = utf8(key)?;
        let hidden = secret::is_secret_key(key) || (key == "value" && named_secret(line));
        let serial = ids::is_serial_key(key);
        let short = matches!(key, "UUID" | "PARTUUID");
        if !(hidden || serial || short) {
            return None;
        }
        let after = &text[at + 1..];
        let mut skip = after.iter().take_while(|b| **b == b' ' || **b == b'\t').count();
        skip += after[skip..].iter().take_while(|b| **b == b'\\').count();
        let quote = after.get(skip).copied().filter(|b| *b == b'"' || *b == b'\'');
        skip += usize::from(quote.is_some());
        let alone = line
            .rsplit(|b| *b == b'\n')
            .next()
            .is_some_and(|l| l.iter().all(|b| b.is_ascii_whitespace() || *b == b'-'));
        let whole = text[at] == b':' && alone || key.to_ascii_lowercase().ends_with("authorization");
        let value = match quote {
            Some(quote) => run(&after[skip..], |b| b != quote && b != b'\\' && b != b'\n'),
            None if whole && !short => run(&after[skip..], |b| !b"\n\r\"\0".contains(&b)),
            None => run(&after[skip..], |b| !b.is_ascii_whitespace() && !b",;&\"'\\)\0".contains(&b)),
        };
        let old = utf8(value)?;
        let new = match () {
            () if hidden => self.secret(old),
            () if serial => self.serial(old),
            () => self.short_uuid(old),
        };
        if old.is_empty() || new == old {
            return None;
        }
        Some((1 + skip + value.len(), [&text[at..at + 1 + skip], new.as_bytes()].concat()))
    }

    /// `--password VALUE`, with a blank or, in /proc/PID/cmdline, a NUL between.
    fn argument(&mut self, text: &[u8], at: usize) -> Option<(usize, Vec<u8>)> {
        let word =
            text[..at].iter().rev().take(64).take_while(|b| b.is_ascii_alphanumeric() || b"_-".contains(b)).count();
        if word < 6 || !secret::is_secret_flag(utf8(&text[at - word..at])?) {
            return None;
        }
        let value = run(&text[at + 1..], |b| !b.is_ascii_whitespace() && b != 0);
        if value.is_empty() || value.starts_with(b"-") {
            return None;
        }
        let new = self.secret(utf8(value)?);
        Some((1 + value.len(), [&text[at..=at], new.as_bytes()].concat()))
    }
}

/// True where the line before is `name: SECRET_NAME`, as a container's environment stands in YAML.
fn named_secret(before: &[u8]) -> bool {
    let line = before.rsplit(|b| *b == b'\n').nth(1).and_then(utf8).unwrap_or_default();
    let line = line.trim().trim_start_matches("- ");
    line.strip_prefix("name:").is_some_and(secret::is_secret_key)
}

/// True where the word before says that a version follows.
fn is_version(before: &[u8]) -> bool {
    let from = before.len().saturating_sub(24);
    let near: Vec<u8> = before[from..].iter().map(u8::to_ascii_lowercase).collect();
    let near = near.trim_ascii_end();
    let end = near.iter().rposition(|b| !b" :=\"'\t\\".contains(b)).map_or(0, |at| at + 1);
    [&b"version"[..], b"release", b"_ver", b"firmware", b"revision"].iter().any(|word| near[..end].ends_with(word))
}

fn run(text: &[u8], fits: impl Fn(u8) -> bool) -> &[u8] {
    let length = text.iter().take_while(|b| fits(**b)).count();
    &text[..length]
}

fn utf8(text: &[u8]) -> Option<&str> {
    std::str::from_utf8(text).ok()
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}
