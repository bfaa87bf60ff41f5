//! EFI variables as efivarfs gives them: four bytes of attributes (little endian), then the value.

use std::fmt;

/// The file's name in /sys/firmware/efi/efivars.
pub const SECURE_BOOT: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// The keys that shim believes beside the firmware's, as it hands them to the kernel: signature lists.
pub const MOK_LIST: &str = "MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23";

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    pub attributes: u32,
    pub value: Vec<u8>,
}

/// Fewer bytes than the attributes or the value need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadVariable {
    pub length: usize,
    pub wanted: &'static str,
}

impl fmt::Display for BadVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: ends before {}", self.length, self.wanted)
    }
}

impl std::error::Error for BadVariable {}

pub fn parse(bytes: &[u8]) -> Result<Variable, BadVariable> {
    let Some((attributes, value)) = bytes.split_first_chunk::<4>() else {
        return Err(BadVariable { length: bytes.len(), wanted: "the four bytes of attributes" });
    };
    Ok(Variable { attributes: u32::from_le_bytes(*attributes), value: value.to_vec() })
}

impl Variable {
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.attributes.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.value);
        bytes
    }
}

/// The one-byte switch that SecureBoot is: 1 is on.
pub fn switch(bytes: &[u8]) -> Result<bool, BadVariable> {
    let variable = parse(bytes)?;
    match variable.value.first() {
        Some(byte) => Ok(*byte == 1),
        None => Err(BadVariable { length: bytes.len(), wanted: "the value's byte" }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secure_boot_on_and_off() {
        assert_eq!(switch(&[6, 0, 0, 0, 1]), Ok(true));
        assert_eq!(switch(&[6, 0, 0, 0, 0]), Ok(false));
        assert!(switch(&[6, 0, 0, 0]).is_err());
        assert_eq!(
            parse(&[6, 0]).map_err(|bad| bad.to_string()),
            Err("byte 2: ends before the four bytes of attributes".into())
        );
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(variable) = parse(&bytes) {
                prop_assert_eq!(variable.to_bytes(), bytes);
            } else {
                prop_assert!(bytes.len() < 4);
            }
        }
    }
}
