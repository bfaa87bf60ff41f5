//! The variables of a UEFI guest as its firmware keeps them while no VM runs: EDK II's variable store, the first volume of
//! an OVMF_VARS file or of an EFI disk.
//!
//! Sources: UEFI PI specification, EFI_FIRMWARE_VOLUME_HEADER; EDK II, MdeModulePkg/Include/Guid/VariableFormat.h
//! (VARIABLE_STORE_HEADER, AUTHENTICATED_VARIABLE_HEADER); UEFI specification, EFI_SIGNATURE_LIST and EFI_LOAD_OPTION.

mod build;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use build::store_of;

/// EFI_SYSTEM_NV_DATA_FV_GUID, as its bytes stand in a file.
pub const VOLUME: Guid = Guid::new(0xfff1_2b8d, 0x7696, 0x4c8b, [0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50]);
/// EFI_AUTHENTICATED_VARIABLE_GUID: each variable has a time stamp and a counter.
pub const AUTHENTICATED: Guid =
    Guid::new(0xaaf3_2c78, 0x947b, 0x439a, [0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92]);
/// EFI_VARIABLE_GUID: without.
const PLAIN: Guid = Guid::new(0xddcf_3616, 0x3275, 0x4164, [0x98, 0xb6, 0xfe, 0x85, 0x70, 0x7f, 0xfe, 0x7d]);
/// EFI_GLOBAL_VARIABLE: PK, KEK, Boot####.
pub const GLOBAL: Guid = Guid::new(0x8be4_df61, 0x93ca, 0x11d2, [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c]);
/// EFI_IMAGE_SECURITY_DATABASE_GUID: db, dbx.
pub const SECURITY: Guid = Guid::new(0xd719_b2cb, 0x3d3a, 0x4596, [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f]);
/// EDK II, gEfiSecureBootEnableDisableGuid: SecureBootEnable, the switch of the firmware's menu.
pub const SWITCH: Guid = Guid::new(0xf0a3_0bc7, 0xaf08, 0x4556, [0x99, 0xc4, 0x00, 0x10, 0x09, 0xc9, 0x3a, 0x44]);
/// shim's own: MokList, MokSBState.
pub const SHIM: Guid = Guid::new(0x605d_ab50, 0xe046, 0x4300, [0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23]);
/// EFI_CERT_X509_GUID: a signature list of certificates.
pub const X509: Guid = Guid::new(0xa5c0_59a1, 0x94e4, 0x4aa7, [0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72]);

/// VARIABLE_HEADER.StartId.
const START: u16 = 0x55aa;
/// VARIABLE_HEADER.State: a variable that counts, and one whose successor is being written.
const ADDED: u8 = 0x3f;
const REPLACED: u8 = 0x3e;
/// More entries than any firmware's menu has.
const BOOTS: usize = 32;

/// A GUID as its 16 bytes stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    const fn new(a: u32, b: u16, c: u16, d: [u8; 8]) -> Guid {
        let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        Guid([a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]])
    }
}

/// Why there are no variables: at which byte what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadStore {
    pub at: usize,
    pub message: &'static str,
}

impl fmt::Display for BadStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}", self.at, self.message)
    }
}

impl std::error::Error for BadStore {}

/// One variable that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredVariable {
    pub guid: Guid,
    pub name: String,
    pub attributes: u32,
    pub data: Vec<u8>,
}

/// The variables, in the store's order; of one that stands twice, the one that counts.
pub fn parse(bytes: &[u8]) -> Result<Vec<StoredVariable>, BadStore> {
    let bad = |at, message| BadStore { at, message };
    if bytes.get(40..44) != Some(b"_FVH") {
        return Err(bad(40, "no firmware volume begins here (_FVH)"));
    }
    if guid(bytes, 16) != Some(VOLUME) {
        return Err(bad(16, "the firmware volume is none of variables"));
    }
    let head = usize::from(u16_at(bytes, 48).ok_or(bad(48, "ends in the volume's header"))?);
    let authenticated = match guid(bytes, head) {
        Some(AUTHENTICATED) => true,
        Some(PLAIN) => false,
        _ => return Err(bad(head, "the volume holds no variable store")),
    };
    // VARIABLE_STORE_HEADER: GUID, size with this header, format 5a, state fe.
    let size = u32_at(bytes, head + 16).ok_or(bad(head + 16, "ends in the store's header"))? as usize;
    if bytes.get(head + 20..head + 22) != Some(&[0x5a, 0xfe]) {
        return Err(bad(head + 20, "the store is not formatted, or not healthy"));
    }
    let end = head.saturating_add(size);
    let store = bytes.get(..end).ok_or(bad(bytes.len(), "ends before the variable store does"))?;
    let mut at = head + 28;
    let mut kept: Vec<(StoredVariable, bool)> = Vec::new();
    while u16_at(store, at) == Some(START) {
        let short = bad(at, "a variable runs out of the store");
        let (sizes, length) = if authenticated { (at + 36, 60) } else { (at + 8, 32) };
        // A header whose sizes were never written is passed over: EDK II's NameSizeOfVariable.
        let size_at = |at| Some(u32_at(store, at)?).map(|size| if size == u32::MAX { 0 } else { size as usize });
        let name_size = size_at(sizes).ok_or(short.clone())?;
        let data_size = size_at(sizes + 4).ok_or(short.clone())?;
        let owner = guid(store, sizes + 8).ok_or(short.clone())?;
        let name_at = at + length;
        let data_at = name_at.checked_add(name_size).ok_or(short.clone())?;
        let next = data_at.checked_add(data_size).ok_or(short.clone())?;
        let name = store.get(name_at..data_at).ok_or(short.clone())?;
        let data = store.get(data_at..next).ok_or(short)?;
        let state = store.get(at + 2).copied().unwrap_or(0xff);
        if state == ADDED || state == REPLACED {
            let variable = StoredVariable {
                guid: owner,
                name: text(name),
                attributes: u32_at(store, at + 4).unwrap_or(0),
                data: data.to_vec(),
            };
            let same = |(one, _): &&mut (StoredVariable, bool)| one.guid == variable.guid && one.name == variable.name;
            match kept.iter_mut().find(same) {
                // The new one counts, wherever it stands.
                Some(known) if known.1 || state == ADDED => *known = (variable, state == REPLACED),
                Some(_) => {}
                None => kept.push((variable, state == REPLACED)),
            }
        }
        at = next.next_multiple_of(4);
    }
    Ok(kept.into_iter().map(|(variable, _)| variable).collect())
}

/// What the variables say of Secure Boot, and what the guest boots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecureBoot {
    /// A platform key is enrolled: the firmware is out of its setup mode.
    pub platform_key: bool,
    /// The switch of the firmware's menu; none where it was never written, which counts as on.
    pub switch: Option<bool>,
    /// The names of the certificates in db, whose signatures are good: untrusted text.
    pub db: Vec<String>,
    /// How many keys of its own the guest's shim believes (MokList).
    pub moks: usize,
    /// The guest told its shim to check nothing (MokSBState).
    pub shim_off: bool,
    /// The boot entries in their order: description and file. Untrusted text.
    pub boots: Vec<(String, String)>,
}

impl SecureBoot {
    pub fn of(variables: &[StoredVariable]) -> SecureBoot {
        let find = |guid: Guid, name: &str| {
            variables.iter().find(|one| one.guid == guid && one.name == name).map(|one| one.data.as_slice())
        };
        let byte = |guid, name| find(guid, name).and_then(|data| data.first()).copied();
        let order = find(GLOBAL, "BootOrder").unwrap_or_default();
        let order = order.chunks_exact(2).filter_map(|pair| u16_at(pair, 0)).take(BOOTS);
        SecureBoot {
            platform_key: find(GLOBAL, "PK").is_some_and(|key| !key.is_empty()),
            switch: byte(SWITCH, "SecureBootEnable").map(|byte| byte == 1),
            db: certificates(find(SECURITY, "db").unwrap_or_default()).into_iter().map(common_name).collect(),
            moks: certificates(find(SHIM, "MokList").unwrap_or_default()).len(),
            shim_off: byte(SHIM, "MokSBState") == Some(1),
            boots: order.filter_map(|number| load_option(find(GLOBAL, &format!("Boot{number:04X}"))?)).collect(),
        }
    }

    /// Whether the firmware checks signatures at the next start.
    pub fn is_on(&self) -> bool {
        self.platform_key && self.switch != Some(false)
    }
}

/// The DER of every certificate in signature lists; hashes and broken lists are passed over.
fn certificates(mut lists: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let (Some(kind), Some(size), Some(head), Some(each)) =
        (guid(lists, 0), u32_at(lists, 16), u32_at(lists, 20), u32_at(lists, 24))
    {
        let (size, head, each) = (size as usize, head as usize, each as usize);
        let Some((list, rest)) = lists.split_at_checked(size).filter(|_| size >= 28) else { break };
        if kind == X509 && each > 16 {
            let signatures = list.get(28usize.saturating_add(head)..).unwrap_or_default();
            found.extend(signatures.chunks_exact(each).filter_map(|one| one.get(16..)));
        }
        lists = rest;
    }
    found
}

/// The subject's common name (2.5.4.3), else its organisation (2.5.4.10). "a certificate" where there is neither.
///
/// Source: RFC 5280, section 4.1, TBSCertificate.
fn common_name(der: &[u8]) -> String {
    let attribute = |subject: &[u8], last: u8| {
        let at = subject.windows(5).position(|window| window == [0x06, 0x03, 0x55, 0x04, last])?;
        let (_, value, _) = tlv(subject.get(at + 5..)?)?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let name = subject(der).and_then(|subject| attribute(subject, 3).or_else(|| attribute(subject, 10)));
    name.unwrap_or_else(|| "a certificate".to_owned())
}

/// Behind version (where it is said), serial number, algorithm, issuer and validity.
fn subject(der: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = tlv(der)?;
    let (_, mut fields, _) = tlv(certificate)?;
    let (first, _, rest) = tlv(fields)?;
    if first == 0xa0 {
        fields = rest;
    }
    for _ in 0..4 {
        (_, _, fields) = tlv(fields)?;
    }
    tlv(fields).map(|(_, subject, _)| subject)
}

/// DER: tag, value, and what follows.
fn tlv(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match *length {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (bytes, rest) =
                rest.split_at_checked(usize::from(long & 0x7f)).filter(|(bytes, _)| bytes.len() <= 4)?;
            (bytes.iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
    };
    let (value, rest) = rest.split_at_checked(length)?;
    Some((*tag, value, rest))
}

/// EFI_LOAD_OPTION: description, and the file of its device path ("" where it names none).
fn load_option(data: &[u8]) -> Option<(String, String)> {
    let paths = usize::from(u16_at(data, 4)?);
    let rest = data.get(6..)?;
    let end = rest.chunks_exact(2).position(|unit| unit == [0, 0])? * 2;
    let mut nodes = rest.get(end + 2..)?;
    nodes = nodes.get(..paths).unwrap_or(nodes);
    let mut file = String::new();
    while let (Some(kind), Some(length)) = (nodes.get(..2), u16_at(nodes, 2)) {
        let Some((node, more)) = nodes.split_at_checked(usize::from(length)).filter(|_| length >= 4) else { break };
        // Media device path, file path.
        if kind == [4, 4] {
            file.push_str(&text(node.get(4..).unwrap_or_default()));
        }
        nodes = more;
    }
    Some((text(rest.get(..end)?), file))
}

/// UTF-16, to its NUL.
fn text(bytes: &[u8]) -> String {
    let units: Vec<u16> =
        bytes.chunks_exact(2).filter_map(|pair| u16_at(pair, 0)).take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

fn guid(bytes: &[u8], at: usize) -> Option<Guid> {
    Some(Guid(*bytes.get(at..)?.first_chunk()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
