//! NVIDIA's `.run` driver installer: a shell script (NVIDIA's makeself 1.6.0-nv) with an archive behind it. Its first lines
//! tell what it is and how to check it. Nothing of it is executed here.
//!
//! Lines 1 to 3 are `#! /bin/sh`, `CRCsum=` and `MD5=`; both sums are over all that follows, from line 4 on. Then assignments,
//! some in quotes: `skip` (the archive's first line), `label`, `version_string`, `TARGET_OS`, `TARGET_ARCH`.

use std::fmt::Write as _;

use md5::{Digest as _, Md5};

/// The assignments stand within so many bytes; a whole stub is some tens of KiB.
const HEAD: usize = 64 << 10;
const NO_MD5: &str = "00000000000000000000000000000000";

/// What the first lines say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFile {
    /// "NVIDIA Accelerated Graphics Driver for Linux-x86_64 580.65.06"
    pub label: String,
    /// "580.65.06"
    pub version: String,
    /// "Linux"
    pub os: String,
    /// As `uname -m`: "x86_64".
    pub arch: String,
    /// POSIX cksum of all from line 4 on.
    pub crc: u32,
    /// 32 lower-case hexadecimal digits; none where the file has none.
    pub md5: Option<String>,
    /// Where line 4 begins, in bytes.
    pub body: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunFileError {
    #[error("this is no .run installer: it does not begin with a shell script's first line")]
    NoScript,
    #[error("line {line}: {wanted} was expected, as NVIDIA's installers have it, and not {found:?}")]
    Line { line: u32, wanted: &'static str, found: String },
    #[error("it has no line {0}= among its first: not one of NVIDIA's driver installers, or cut off")]
    Missing(&'static str),
    #[error("line {line}: {name}={value:?} is not of the form that NVIDIA's installers have")]
    Value { line: u32, name: &'static str, value: String },
    #[error("the file is damaged: its checksum is {found}, and its own second line says {wanted}; get it again")]
    Crc { found: u32, wanted: u32 },
    #[error(
        "the file is damaged or was changed: its MD5 is {found}, and its own third line says {wanted}; get it again"
    )]
    Md5 { found: String, wanted: String },
}

/// Reads the first lines, out of the file's first bytes (64 KiB are enough).
pub fn head(bytes: &[u8]) -> Result<RunFile, RunFileError> {
    let bytes = bytes.get(..HEAD).unwrap_or(bytes);
    let mut lines =
        (1u32..).zip(bytes.split_inclusive(|byte| *byte == b'\n')).filter(|(_, line)| line.ends_with(b"\n"));
    let mut body = 0;
    let mut next = || {
        let (number, line) = lines.next()?;
        body += line.len();
        Some(Line { number, text: String::from_utf8_lossy(line).trim_end().to_owned() })
    };
    match next() {
        Some(first) if matches!(first.text.as_str(), "#! /bin/sh" | "#!/bin/sh") => {}
        _ => return Err(RunFileError::NoScript),
    }
    let mut sum = |name| {
        let line: Line = next().ok_or(RunFileError::Missing(name))?;
        match line.assigned(name) {
            Some(value) => Ok((line.number, value.to_owned())),
            None => Err(RunFileError::Line { line: line.number, wanted: name, found: cut(&line.text) }),
        }
    };
    let (line, crc) = sum("CRCsum")?;
    let crc = crc.parse().map_err(|_| RunFileError::Value { line, name: "CRCsum", value: cut(&crc) })?;
    let (line, md5) = sum("MD5")?;
    let md5 = match md5.as_str() {
        NO_MD5 => None,
        md5 if md5.len() == 32 && md5.bytes().all(|byte| byte.is_ascii_hexdigit()) => Some(md5.to_ascii_lowercase()),
        _ => return Err(RunFileError::Value { line, name: "MD5", value: cut(&md5) }),
    };
    let rest = bytes.get(body..).unwrap_or_default();
    let value = |name: &'static str, fits: fn(&str) -> bool| {
        for (line, text) in (4u32..).zip(rest.split(|byte| *byte == b'\n')) {
            let line = Line { number: line, text: String::from_utf8_lossy(text).trim_end().to_owned() };
            let Some(value) = line.assigned(name) else { continue };
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            if !fits(value) {
                return Err(RunFileError::Value { line: line.number, name, value: cut(value) });
            }
            return Ok(value.to_owned());
        }
        Err(RunFileError::Missing(name))
    };
    Ok(RunFile {
        label: value("label", |label| label.starts_with("NVIDIA ") && label.len() < 200)?,
        version: value("version_string", version)?,
        os: value("TARGET_OS", word)?,
        arch: value("TARGET_ARCH", word)?,
        crc,
        md5,
        body,
    })
}

/// "580.65.06"
fn version(text: &str) -> bool {
    let number = |part: &str| (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    (2..=4).contains(&text.split('.').count()) && text.split('.').all(number)
}

fn word(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Foreign text in a message of ours: short, and without control characters.
fn cut(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(60).collect()
}

struct Line {
    number: u32,
    text: String,
}

impl Line {
    fn assigned(&self, name: &str) -> Option<&str> {
        self.text.strip_prefix(name)?.strip_prefix('=')
    }
}

/// The sums of all from line 4 on, taken piece by piece: such a file has hundreds of megabytes.
pub struct Sums {
    crc: crc::Digest<'static, u32, crc::Table<16>>,
    length: u64,
    md5: Md5,
}

static CKSUM: crc::Crc<u32, crc::Table<16>> = crc::Crc::<u32, crc::Table<16>>::new(&POSIX);

/// POSIX cksum, before the length that it appends.
static POSIX: crc::Algorithm<u32> = crc::CRC_32_CKSUM;

impl Default for Sums {
    fn default() -> Self {
        Sums { crc: CKSUM.digest(), length: 0, md5: Md5::new() }
    }
}

impl Sums {
    pub fn update(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        self.length += bytes.len() as u64;
        self.md5.update(bytes);
    }

    /// The same as the file says of itself?
    pub fn check(mut self, run: &RunFile) -> Result<(), RunFileError> {
        // The length, least significant byte first, without leading zeros: POSIX.1-2017, cksum.
        let mut length = self.length;
        while length > 0 {
            self.crc.update(&[(length & 0xff) as u8]);
            length >>= 8;
        }
        let found = self.crc.finalize();
        if found != run.crc {
            return Err(RunFileError::Crc { found, wanted: run.crc });
        }
        let mut found = String::new();
        for byte in self.md5.finalize() {
            let _ = write!(found, "{byte:02x}");
        }
        match &run.md5 {
            Some(wanted) if *wanted != found => Err(RunFileError::Md5 { found, wanted: wanted.clone() }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
