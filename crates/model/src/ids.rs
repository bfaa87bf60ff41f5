//! Names of things: PCI addresses and identities, check ids, digests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A PCI address, `dddd:bb:dd.f` (domain, bus, device, function), as sysfs spells it.
///
/// The domain has at least four hex digits; Intel VMD makes domains of five and more (`10000:`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    pub domain: u32,
    pub bus: u8,
    pub device: u8,
    pub function: u8,
}

impl Bdf {
    pub const fn new(domain: u32, bus: u8, device: u8, function: u8) -> Self {
        Bdf { domain, bus, device, function }
    }

    /// The slot: all functions of one physical device share it (`0000:26:00`).
    pub fn slot(&self) -> String {
        format!("{:04x}:{:02x}:{:02x}", self.domain, self.bus, self.device)
    }

    /// True when both are functions of one physical device.
    pub fn same_slot(&self, other: &Bdf) -> bool {
        (self.domain, self.bus, self.device) == (other.domain, other.bus, other.device)
    }

    /// `26:00.0` where the domain is 0, as lspci prints it by default.
    pub fn short(&self) -> String {
        if self.domain == 0 {
            format!("{:02x}:{:02x}.{:x}", self.bus, self.device, self.function)
        } else {
            self.to_string()
        }
    }
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

/// Why a text is no PCI address, identity or digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadId {
    pub text: String,
    pub wanted: &'static str,
}

impl fmt::Display for BadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not {}", self.text.escape_debug(), self.wanted)
    }
}

impl std::error::Error for BadId {}

impl FromStr for Bdf {
    type Err = BadId;

    /// Reads `0000:26:00.0`, `26:00.0` and NVML's `00000000:26:00.0`, in either case.
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { text: text.to_owned(), wanted: "a PCI address such as 0000:26:00.0" };
        let hex = |part: &str, digits: std::ops::RangeInclusive<usize>| {
            let ok = digits.contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            if ok { u32::from_str_radix(part, 16).ok() } else { None }
        };
        let (front, function) = text.rsplit_once('.').ok_or_else(bad)?;
        let (front, device) = front.rsplit_once(':').ok_or_else(bad)?;
        let (domain, bus) = match front.rsplit_once(':') {
            Some((domain, bus)) => (hex(domain, 4..=8).ok_or_else(bad)?, bus),
            None => (0, front),
        };
        let bus = hex(bus, 2..=2).ok_or_else(bad)?;
        let device = hex(device, 2..=2).filter(|d| *d < 32).ok_or_else(bad)?;
        let function = hex(function, 1..=1).filter(|f| *f < 8).ok_or_else(bad)?;
        Ok(Bdf::new(domain, bus as u8, device as u8, function as u8))
    }
}

impl Serialize for Bdf {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bdf {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A vendor and device number, `10de:1d01`, as `lspci -n` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciId {
    pub vendor: u16,
    pub device: u16,
}

impl PciId {
    pub const NVIDIA: u16 = 0x10de;

    pub const fn new(vendor: u16, device: u16) -> Self {
        PciId { vendor, device }
    }
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl FromStr for PciId {
    type Err = BadId;

    /// Reads `10de:1d01` and `10DE:1D01`.
    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { text: text.to_owned(), wanted: "a PCI identity such as 10de:1d01" };
        let (vendor, device) = text.split_once(':').ok_or_else(bad)?;
        let hex = |part: &str| {
            let ok = part.len() == 4 && part.bytes().all(|b| b.is_ascii_hexdigit());
            if ok { u16::from_str_radix(part, 16).ok() } else { None }
        };
        Ok(PciId::new(hex(vendor).ok_or_else(bad)?, hex(device).ok_or_else(bad)?))
    }
}

impl Serialize for PciId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// What a card is, whatever slot it sits in: design rule 4, "identity, not address".
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    pub bdf: Bdf,
    pub id: PciId,
    /// Subsystem vendor and device; `None` where sysfs does not say.
    pub subsystem: Option<PciId>,
    /// NVML's UUID, only where the driver runs.
    pub uuid: Option<String>,
}

/// A check's name, `floor/what-is-wrong`, e.g. `host/group-shared`. Stable: scripts key on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct CheckId(pub &'static str);

impl fmt::Display for CheckId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// SHA-256 in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub String);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Digest::from_sha256(Sha256::digest(bytes).into())
    }

    /// Of bytes that were hashed piece by piece.
    pub fn from_sha256(sum: [u8; 32]) -> Self {
        let mut hex = String::with_capacity(64);
        for byte in sum {
            use fmt::Write as _;
            let _ = write!(hex, "{byte:02x}");
        }
        Digest(hex)
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
