//! CUresult: numbers, names and sentences, as driver 580.159.04 gave them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::OnceLock;

use simcards::abi::Null;

/// A CUresult that is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub i32);

pub const INVALID_VALUE: Code = Code(1);
pub const OUT_OF_MEMORY: Code = Code(2);
pub const NOT_INITIALIZED: Code = Code(3);
pub const DEVICE_UNAVAILABLE: Code = Code(46);
pub const NO_DEVICE: Code = Code(100);
pub const INVALID_DEVICE: Code = Code(101);
pub const INVALID_IMAGE: Code = Code(200);
pub const INVALID_CONTEXT: Code = Code(201);
pub const NO_BINARY_FOR_GPU: Code = Code(209);
pub const ECC_UNCORRECTABLE: Code = Code(214);
pub const PEER_ACCESS_UNSUPPORTED: Code = Code(217);
pub const INVALID_PTX: Code = Code(218);
pub const UNSUPPORTED_PTX_VERSION: Code = Code(222);
pub const INVALID_HANDLE: Code = Code(400);
pub const NOT_FOUND: Code = Code(500);
pub const ILLEGAL_ADDRESS: Code = Code(700);
pub const LAUNCH_OUT_OF_RESOURCES: Code = Code(701);
pub const PEER_ACCESS_ALREADY_ENABLED: Code = Code(704);
pub const PEER_ACCESS_NOT_ENABLED: Code = Code(705);
pub const MISALIGNED_ADDRESS: Code = Code(716);
pub const LAUNCH_FAILED: Code = Code(719);
pub const NOT_SUPPORTED: Code = Code(801);
pub const SYSTEM_DRIVER_MISMATCH: Code = Code(803);
pub const UNKNOWN: Code = Code(999);

pub type Answer<T = ()> = Result<T, Code>;

impl From<Null> for Code {
    fn from(_: Null) -> Code {
        INVALID_VALUE
    }
}

/// Name and sentence, kept as long as the process runs.
pub fn words(code: i32) -> Option<&'static (CString, CString)> {
    static TABLE: OnceLock<BTreeMap<i32, (CString, CString)>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let lines = include_str!("errors.txt").lines();
        lines
            .filter_map(|line| {
                let (code, rest) = line.split_once(' ')?;
                let (name, sentence) = rest.split_once(" | ")?;
                Some((code.parse().ok()?, (CString::new(name).ok()?, CString::new(sentence).ok()?)))
            })
            .collect()
    });
    table.get(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_is_given_has_a_name() {
        let name = |code: i32| words(code).map(|(name, _)| name.to_str().expect("ASCII"));
        assert_eq!(name(0), Some("CUDA_SUCCESS"));
        assert_eq!(name(SYSTEM_DRIVER_MISMATCH.0), Some("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"));
        assert_eq!(name(LAUNCH_FAILED.0), Some("CUDA_ERROR_LAUNCH_FAILED"));
        assert_eq!(name(DEVICE_UNAVAILABLE.0), Some("CUDA_ERROR_DEVICE_UNAVAILABLE"));
        assert_eq!(name(12345), None);
    }
}
