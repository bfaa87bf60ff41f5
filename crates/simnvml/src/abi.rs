//! The C boundary. All reading and writing of a client's memory is here; nothing else in this crate dereferences.
//!
//! Why it is sound: an [`Out`], [`Text`] or [`In`] exists only as an argument of an exported function, so its pointer came
//! from a C caller, who vouches for it by NVML's contract: null, or memory of the type's size (of the length that is passed
//! beside it). Null is refused; everything else is written through raw pointers without alignment, never made a reference,
//! so a caller that passes one address twice or memory that was never written does no harm here.
#![allow(unsafe_code, reason = "NVML is a C interface: its arguments are pointers")]

use std::ffi::{CStr, c_char};

/// An NVML return code that is not success: nvmlReturn_t.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

pub const UNINITIALIZED: Code = Code(1);
pub const INVALID_ARGUMENT: Code = Code(2);
pub const NOT_SUPPORTED: Code = Code(3);
pub const NO_PERMISSION: Code = Code(4);
pub const NOT_FOUND: Code = Code(6);
pub const INSUFFICIENT_SIZE: Code = Code(7);
pub const DRIVER_NOT_LOADED: Code = Code(9);
pub const TIMEOUT: Code = Code(10);
pub const FUNCTION_NOT_FOUND: Code = Code(13);
pub const GPU_IS_LOST: Code = Code(15);
pub const IN_USE: Code = Code(19);
pub const INSUFFICIENT_RESOURCES: Code = Code(23);
pub const LIB_RM_VERSION_MISMATCH: Code = Code(18);
pub const VERSION_MISMATCH: Code = Code(25);
pub const UNKNOWN: Code = Code(999);

pub type Answer<T = ()> = Result<T, Code>;

/// A structure or number that the caller wants filled. `T` is plain data of C: any bytes are a value of it.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Clone for Out<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Out<T> {}

impl<T: Copy> Out<T> {
    pub fn is_null(self) -> bool {
        self.0.is_null()
    }

    pub fn put(self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, so memory of one T by NVML's contract (see the module).
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// What the caller wrote there.
    pub fn get(self) -> Answer<T> {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: as in `put`; T is plain data, so whatever is there is a T.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// What is asked for is refused as the real one does where the structure's first word is not this version of it. Only
    /// that word is read: an older, smaller structure ends before ours.
    pub fn versioned(self, version: u32) -> Answer {
        let word = Out(self.0.cast::<u32>()).get()?;
        if word == version_word::<T>(version) { Ok(()) } else { Err(VERSION_MISMATCH) }
    }

    /// The n-th of an array: `n` is below the count that the caller passed beside it.
    pub fn at(self, n: usize) -> Out<T> {
        // no memory is touched; wrapping, so that a lying count is not undefined before the access
        Out(self.0.wrapping_add(n))
    }

    /// NVML's lists: `count` is the room in and the number out; too little room (or no array) tells the number.
    pub fn list(self, count: Out<u32>, items: &[T]) -> Answer {
        let room = count.get()?;
        let number = u32::try_from(items.len()).map_err(|_| UNKNOWN)?;
        count.put(number)?;
        if room < number {
            return Err(INSUFFICIENT_SIZE);
        }
        items.iter().enumerate().try_for_each(|(n, item)| self.at(n).put(*item))
    }

    /// A list whose room is checked elsewhere.
    pub fn fill(self, items: &[T]) -> Answer {
        items.iter().enumerate().try_for_each(|(n, item)| self.at(n).put(*item))
    }
}

/// `NVML_STRUCT_VERSION`: the size, and the version in the highest byte.
pub const fn version_word<T>(version: u32) -> u32 {
    (size_of::<T>() as u32) | (version << 24)
}

/// A buffer for a text.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*mut c_char);

impl Text {
    /// The text and its NUL; refused where `length` is too little.
    pub fn put(self, length: u32, text: &str) -> Answer {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        if (length as usize) <= text.len() {
            return Err(INSUFFICIENT_SIZE);
        }
        chars(text).enumerate().try_for_each(|(n, byte)| Out(self.0.wrapping_add(n)).put(byte))
    }
}

/// A C string from the caller.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct In(*const c_char);

impl In {
    pub fn get(self) -> Answer<String> {
        if self.0.is_null() {
            return Err(INVALID_ARGUMENT);
        }
        // SAFETY: not null, so a NUL-terminated string by NVML's contract; it is copied before the call returns.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}

fn chars(text: &str) -> impl Iterator<Item = c_char> {
    text.bytes().chain([0]).map(|byte| byte.cast_signed() as c_char)
}

/// A text in a structure's array, cut where it is too long.
pub fn array<const N: usize>(text: &str) -> [c_char; N] {
    let mut to = [0; N];
    for (place, byte) in to.iter_mut().take(N.saturating_sub(1)).zip(chars(text)) {
        *place = byte;
    }
    to
}

/// A structure of C with every byte zero.
pub fn zeroed<T: Plain>() -> T {
    // SAFETY: Plain is only said of NVML's structures of numbers, arrays, unions of numbers and pointers.
    unsafe { std::mem::zeroed() }
}

/// Of which all bytes zero is a value.
///
/// # Safety
/// The type has no reference, no enum and no other niche.
pub unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ident)*) => {$(
        // SAFETY: a bindgen structure of NVML's header: numbers, arrays and unions of them, raw pointers.
        unsafe impl Plain for nvml_wrapper_sys::bindings::$name {}
    )*};
}
plain! { nvmlPciInfo_t nvmlFieldValue_t nvmlEventData_t nvmlGpuInstanceProfileInfo_v2_t nvmlAccountingStats_t
nvmlGpuFabricInfo_t nvmlProcessUtilizationInfo_v1_t nvmlGpuDynamicPstatesInfo_t nvmlGpuThermalSettings_t
nvmlViolationTime_t nvmlConfComputeSystemState_t nvmlBridgeChipHierarchy_t nvmlEccErrorCounts_t
nvmlGpuFabricInfoV_t nvmlGridLicensableFeatures_t nvmlSystemDriverBranchInfo_t nvmlPlatformInfo_t
nvmlEccSramErrorStatus_t nvmlClkMonStatus_t }

/// Exported functions: each asks [`crate::state::enter`] first, which keeps panics on this side.
macro_rules! nvml {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) |$view:pat_param| $body:block)*) => {$(
        $(#[$doc])*
        // SAFETY of the name: NVML's, which is what this library is for; nothing else in it has that name.
        #[unsafe(no_mangle)]
        #[allow(unsafe_code, non_snake_case, reason = "the C interface")]
        unsafe extern "C" fn $name($($arg: $type),*) -> u32 {
            $crate::state::enter(stringify!($name), |$view| $body)
        }
    )*};
}
pub(crate) use nvml;
