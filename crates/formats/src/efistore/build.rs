//! A variable store that says what a [`SecureBoot`] says and no more: for a simulated guest, and for a recording, in which
//! nothing else of a guest's firmware has any place. Its certificates have names and no keys.

use super::{AUTHENTICATED, GLOBAL, Guid, SECURITY, SHIM, SWITCH, SecureBoot, VOLUME, X509};

/// EFI_FIRMWARE_VOLUME_HEADER with one entry of its block map and the end of it.
const VOLUME_HEADER: usize = 72;
/// Room for what is to come, so that the store is not full.
const FREE: usize = 1 << 10;
/// More than any name of a certificate; one byte of DER says it.
const LONGEST: usize = 100;

/// The store's bytes. A name of a certificate longer than 100 bytes is cut.
pub fn store_of(says: &SecureBoot) -> Vec<u8> {
    let mut store = Vec::new();
    if says.platform_key {
        put(&mut store, GLOBAL, "PK", &signatures(["a platform key".to_owned()]));
    }
    if let Some(on) = says.switch {
        put(&mut store, SWITCH, "SecureBootEnable", &[u8::from(on)]);
    }
    if !says.db.is_empty() {
        put(&mut store, SECURITY, "db", &signatures(says.db.iter().cloned()));
    }
    if says.moks > 0 {
        put(&mut store, SHIM, "MokList", &signatures((0..says.moks).map(|number| format!("key {number}"))));
    }
    if says.shim_off {
        put(&mut store, SHIM, "MokSBState", &[1]);
    }
    for (number, (name, file)) in says.boots.iter().enumerate() {
        put(&mut store, GLOBAL, &format!("Boot{number:04X}"), &load_option(name, file));
    }
    let order: Vec<u8> = (0u16..).zip(&says.boots).flat_map(|(number, _)| number.to_le_bytes()).collect();
    put(&mut store, GLOBAL, "BootOrder", &order);
    let size = (28 + store.len() + FREE) as u32;
    let mut bytes = vec![0; 16];
    bytes.extend(VOLUME.0);
    bytes.extend((VOLUME_HEADER as u64 + u64::from(size)).to_le_bytes());
    bytes.extend(b"_FVH");
    bytes.extend(0u32.to_le_bytes());
    bytes.extend((VOLUME_HEADER as u16).to_le_bytes());
    bytes.resize(VOLUME_HEADER, 0);
    bytes.extend(AUTHENTICATED.0);
    bytes.extend(size.to_le_bytes());
    bytes.extend([0x5a, 0xfe, 0, 0, 0, 0, 0, 0]);
    bytes.extend(store);
    bytes.resize(bytes.len() + FREE, 0xff);
    bytes
}

/// AUTHENTICATED_VARIABLE_HEADER, name and value, to the next multiple of four.
fn put(store: &mut Vec<u8>, guid: Guid, name: &str, data: &[u8]) {
    let name = utf16(name);
    store.extend([0xaa, 0x55, 0x3f, 0, 7, 0, 0, 0]);
    store.extend([0; 28]);
    store.extend((name.len() as u32).to_le_bytes());
    store.extend((data.len() as u32).to_le_bytes());
    store.extend(guid.0);
    store.extend(name);
    store.extend(data);
    store.resize(store.len().next_multiple_of(4), 0xff);
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// One EFI_SIGNATURE_LIST a certificate.
fn signatures(names: impl IntoIterator<Item = String>) -> Vec<u8> {
    let list = |name: String| {
        let end = (0..=name.len().min(LONGEST)).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        let certificate = certificate(name.get(..end).unwrap_or_default());
        let each = certificate.len() + 16;
        let mut list = X509.0.to_vec();
        list.extend(((28 + each) as u32).to_le_bytes());
        list.extend(0u32.to_le_bytes());
        list.extend((each as u32).to_le_bytes());
        list.extend([0; 16]);
        list.extend(certificate);
        list
    };
    names.into_iter().flat_map(list).collect()
}

/// RFC 5280's frame around the subject's name.
fn certificate(name: &str) -> Vec<u8> {
    let der = |tag: u8, value: &[u8]| {
        let mut der = vec![tag, 0x81, value.len() as u8];
        der.extend(value);
        der
    };
    let attribute = [&[0x06, 0x03, 0x55, 0x04, 0x03][..], &der(0x0c, name.as_bytes())].concat();
    let subject = der(0x30, &der(0x31, &der(0x30, &attribute)));
    let empty = der(0x30, &[]);
    let fields = [der(0x02, &[1]), empty.clone(), empty.clone(), empty, subject].concat();
    der(0x30, &der(0x30, &fields))
}

fn load_option(name: &str, file: &str) -> Vec<u8> {
    let mut path = Vec::new();
    if !file.is_empty() {
        let file = utf16(file);
        path.extend([4, 4]);
        path.extend(((file.len() + 4) as u16).to_le_bytes());
        path.extend(file);
    }
    path.extend([0x7f, 0xff, 4, 0]);
    let mut option = 1u32.to_le_bytes().to_vec();
    option.extend((path.len() as u16).to_le_bytes());
    option.extend(utf16(name));
    option.extend(path);
    option
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn example() -> SecureBoot {
        SecureBoot {
            platform_key: true,
            switch: Some(true),
            db: vec!["Microsoft Corporation UEFI CA 2011".into(), "another".into()],
            moks: 2,
            shim_off: true,
            boots: vec![("debian".into(), "\\EFI\\debian\\shimx64.efi".into()), ("net".into(), String::new())],
        }
    }

    #[test]
    fn what_is_made_is_read() {
        for says in [example(), SecureBoot::default()] {
            assert_eq!(SecureBoot::of(&parse(&store_of(&says)).expect("a store")), says);
        }
    }

    /// PK is the first variable: its state is the third byte of the store's first header.
    #[test]
    fn a_deleted_variable_is_none_and_one_that_is_replaced_counts_until_the_new_one_does() {
        let state = VOLUME_HEADER + 28 + 2;
        for (byte, counts) in [(0x3f, true), (0x3e, true), (0x3d, false), (0x3c, false), (0x7f, false)] {
            let mut bytes = store_of(&example());
            bytes[state] = byte;
            assert_eq!(SecureBoot::of(&parse(&bytes).expect("a store")).platform_key, counts, "{byte:02x}");
        }
        // The switch twice: the old one, and behind it the new one.
        let mut says = SecureBoot { switch: Some(false), ..SecureBoot::default() };
        let old = store_of(&says);
        says.switch = Some(true);
        let new = store_of(&says);
        let one = VOLUME_HEADER + 28;
        let length = new.windows(2).skip(one + 2).position(|two| two == [0xaa, 0x55]).expect("BootOrder") + 2;
        let mut both = old.clone();
        both[one + 2] = 0x3e;
        both.splice(one + length..one + length, new[one..one + length].iter().copied());
        both.truncate(old.len());
        assert_eq!(SecureBoot::of(&parse(&both).expect("a store")).switch, Some(true));
        both[one + length + 2] = 0x7f;
        assert_eq!(SecureBoot::of(&parse(&both).expect("a store")).switch, Some(false), "the new one is not whole");
    }
}
