//! Where a card sits on its host, told to the VM that has it: one line of text a card, carried as an OEM string of
//! SMBIOS (type 11).
//!
//! ```text
//! thruway.dev/gpu:1;id=10de:1d01;board=1043:85f4;pci=0000:26:00.0;slot=4;numa=0;max=8.0x4;now=2.5x4
//! ```
//!
//! After the prefix stands the version, then `key=value` parted by `;`, each key once:
//!
//! | key | what |
//! |---|---|
//! | `id`, `board` | which of the guest's cards this is: vendor:device, and subsystem vendor:device where there is one |
//! | `port` | the root port behind which the guest finds it: only where the VM has a twin of the card |
//! | `pci` | function 0's address on the host |
//! | `slot` | the physical slot, as /sys/bus/pci/slots of the host names it |
//! | `numa` | the host's NUMA node; left out where the host has one without numbers (-1) |
//! | `max`, `now` | GT/s and lanes of the card's link at most, and when this was written |
//! | `host` | the host's name, only where it was asked for |
//!
//! Unknown keys are passed over, so that a later thruway may say more; another version is an error. No character of it
//! needs quoting in an option of QEMU (comma), a word of Proxmox VE's `args` (blank, quote, backslash) or XML.
//! Why SMBIOS and not fw_cfg: every x86 kernel has the table, where fw_cfg needs the module qemu_fw_cfg; and libvirt
//! tells its users to prefer it ("fwcfg is considered somewhat internal to QEMU", formatdomain, System Information).
//! Sources: DSP0134 (SMBIOS), 7.12, OEM Strings (type 11); QEMU's manual, -smbios type=11,value=…; libvirt's
//! formatdomain, oemStrings ("appname:data" is its advice for the form).

mod args;
#[cfg(test)]
mod tests;

use std::fmt;

use model::{Bdf, PciId};

pub use args::{in_args, with_args};

/// What every hint begins with, in whatever version. The domain is that of the labels and annotations made from it.
pub const PREFIX: &str = "thruway.dev/gpu:";

/// The version that is written.
pub const VERSION: u32 = 1;

/// The longest hint that is read, in bytes. What is written stays below 300.
pub const LONGEST: usize = 512;

/// The most hints of one VM that are read; no machine type has ports for so many cards.
pub const MOST: usize = 32;

/// A card's place on its host. Shapes and units stand in the module's table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Hint {
    pub id: PciId,
    pub board: Option<PciId>,
    /// A bridge of the guest.
    pub port: Option<Bdf>,
    /// Function 0 on the host.
    pub pci: Bdf,
    pub slot: Option<String>,
    pub numa: Option<u32>,
    pub max: Option<Lanes>,
    pub now: Option<Lanes>,
    pub host: Option<String>,
}

/// A PCI Express link: GT/s times ten (25, 50, 80, 160, 320, 640), and lanes (1 to 32).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Lanes {
    pub gts_x10: u32,
    pub lanes: u32,
}

/// Why a text is no hint, in words that hold at most a few of its characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("{0}")]
pub struct BadHint(pub String);

impl Hint {
    /// Reads a hint; the text is of the hypervisor's making and is believed in nothing. Errors: no prefix, longer than
    /// [`LONGEST`], another version, a key twice, a value of another form, no `id` or no `pci`.
    pub fn parse(text: &str) -> Result<Hint, BadHint> {
        let rest = text.strip_prefix(PREFIX).ok_or_else(|| bad("it does not begin as a hint does"))?;
        if text.len() > LONGEST {
            return Err(bad(format!("it has {} bytes, and {LONGEST} are the most", text.len())));
        }
        let mut parts = rest.split(';');
        let version = parts.next().unwrap_or_default();
        if version != VERSION.to_string() {
            return Err(bad(format!("it is of version {}, and this thruway reads {VERSION}", clip(version))));
        }
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(|| bad(format!("{} has no value", clip(part))))?;
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(bad(format!("{} stands twice", clip(key))));
            }
            pairs.push((key, value));
        }
        let of = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        fn read<T>(key: &str, value: Option<&str>, form: impl Fn(&str) -> Option<T>) -> Result<Option<T>, BadHint> {
            let Some(value) = value else { return Ok(None) };
            form(value).map(Some).ok_or_else(|| bad(format!("{key}={} is not of its form", clip(value))))
        }
        let id = |text: &str| text.parse::<PciId>().ok();
        let address = |text: &str| text.parse::<Bdf>().ok();
        let name = |text: &str| is_name(text).then(|| text.to_owned());
        let number = |text: &str| text.parse::<u32>().ok().filter(|node| *node < 1024 && !text.starts_with('+'));
        Ok(Hint {
            id: read("id", of("id"), id)?.ok_or_else(|| bad("it does not say which card it is of (id)"))?,
            board: read("board", of("board"), id)?,
            port: read("port", of("port"), address)?,
            pci: read("pci", of("pci"), address)?.ok_or_else(|| bad("it does not say where the card sits (pci)"))?,
            slot: read("slot", of("slot"), name)?,
            numa: read("numa", of("numa"), number)?,
            max: read("max", of("max"), Lanes::parse)?,
            now: read("now", of("now"), Lanes::parse)?,
            host: read("host", of("host"), name)?,
        })
    }

    /// True where both say the same of the same card. The link as it is now is left out: it changes with the card's
    /// load and sleep, and a hint is not old because of that. So is what a sleeping card did not say (`max`).
    pub fn agrees(&self, other: &Hint) -> bool {
        let steady = |hint: &Hint| Hint { max: None, now: None, ..hint.clone() };
        let same_link = self.max.is_none() || other.max.is_none() || self.max == other.max;
        steady(self) == steady(other) && same_link
    }

    /// The place in words: "0000:26:00.0, slot 4, NUMA 0, x4 8.0 GT/s". The host's name, where it was told, comes first.
    pub fn place(&self) -> String {
        let mut words: Vec<String> = vec![match &self.host {
            Some(host) => format!("{host} {}", self.pci),
            None => self.pci.to_string(),
        }];
        words.extend(self.slot.as_ref().map(|slot| format!("slot {slot}")));
        words.extend(self.numa.map(|node| format!("NUMA {node}")));
        words.extend(self.max.map(|link| link.words()));
        words.join(", ")
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{VERSION};id={}", self.id)?;
        let pairs = [
            ("board", self.board.map(|id| id.to_string())),
            ("port", self.port.map(|port| port.to_string())),
            ("pci", Some(self.pci.to_string())),
            ("slot", self.slot.clone()),
            ("numa", self.numa.map(|node| node.to_string())),
            ("max", self.max.map(|link| link.to_string())),
            ("now", self.now.map(|link| link.to_string())),
            ("host", self.host.clone()),
        ];
        for (key, value) in pairs {
            if let Some(value) = value {
                write!(f, ";{key}={value}")?;
            }
        }
        Ok(())
    }
}

impl Lanes {
    /// "8.0x4".
    pub fn parse(text: &str) -> Option<Lanes> {
        let (speed, lanes) = text.split_once('x')?;
        let (whole, tenth) = speed.split_once('.')?;
        let digits = |text: &str, most: usize| {
            let ok = (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            if ok { text.parse::<u32>().ok() } else { None }
        };
        let gts_x10 = digits(whole, 3)? * 10 + digits(tenth, 1)?;
        let lanes = digits(lanes, 2).filter(|lanes| (1..=32).contains(lanes))?;
        Some(Lanes { gts_x10, lanes })
    }

    /// "x4 8.0 GT/s".
    pub fn words(self) -> String {
        format!("x{} {}.{} GT/s", self.lanes, self.gts_x10 / 10, self.gts_x10 % 10)
    }
}

impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}x{}", self.gts_x10 / 10, self.gts_x10 % 10, self.lanes)
    }
}

/// A slot's or a host's name that may stand in a hint: 1 to 63 letters, digits, `.`, `_` and `-`, with a letter or digit
/// first and last, as a Kubernetes label's value has it too.
pub fn is_name(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.chars().next())
        && edge(text.chars().last())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn bad(says: impl Into<String>) -> BadHint {
    BadHint(says.into())
}

/// The start of an untrusted text, fit for a message.
fn clip(text: &str) -> String {
    let short: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    format!("\"{short}\"")
}
