//! The C boundary of libcuda, libnvcuvid and libnvidia-encode: the reading and writing of a client's arguments.
//!
//! Why it is sound: an [`Out`], [`Text`] or [`In`] exists only as an argument of an exported function, so its pointer came
//! from a C caller, who vouches for it by the interface's contract: null, or memory of the type's size (of the length that
//! is passed beside it). Null is refused; all else goes through raw pointers without alignment and never becomes a
//! reference, so a caller that passes one address twice or memory that was never written does no harm here.
#![allow(unsafe_code, reason = "a C interface: its arguments are pointers")]

use std::ffi::{CStr, c_char, c_void};

/// A null pointer where there must be none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Null;

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

    pub fn put(self, value: T) -> Result<(), Null> {
        if self.0.is_null() {
            return Err(Null);
        }
        // SAFETY: not null, so memory of one T by the interface's contract (see the module).
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// What the caller wrote there.
    pub fn get(self) -> Result<T, Null> {
        if self.0.is_null() {
            return Err(Null);
        }
        // SAFETY: as in `put`; T is plain data, so whatever is there is a T.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// Where it is wanted: null is no error.
    pub fn offer(self, value: T) {
        let _ = self.put(value);
    }

    /// The n-th of an array: `n` is below the count that the caller passed beside it.
    pub fn at(self, n: usize) -> Out<T> {
        // no memory is touched; wrapping, so that a lying count is not undefined before the access
        Out(self.0.wrapping_add(n))
    }

    /// The same place, taken for another type.
    pub fn cast<U>(self) -> Out<U> {
        Out(self.0.cast())
    }
}

/// A buffer for a text.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Text(*mut c_char);

impl Text {
    /// One of a pointer that is passed as plain data (an option's value).
    pub fn of(pointer: *mut c_void) -> Text {
        Text(pointer.cast())
    }

    /// As much of the text as `length` bytes hold, and a NUL.
    pub fn cut(self, length: usize, text: &str) -> Result<(), Null> {
        if self.0.is_null() || length == 0 {
            return Err(Null);
        }
        let bytes = text.bytes().take(length - 1).chain([0]);
        bytes.enumerate().try_for_each(|(n, byte)| Out(self.0.wrapping_add(n)).put(byte.cast_signed() as c_char))
    }
}

/// A C string from the caller.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct In(*const c_char);

impl In {
    /// The text's bytes, without the NUL.
    pub fn bytes(self) -> Result<Vec<u8>, Null> {
        if self.0.is_null() {
            return Err(Null);
        }
        // SAFETY: not null, so a NUL-terminated string by the interface's contract; it is copied before the call returns.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_bytes().to_vec())
    }

    pub fn get(self) -> Result<String, Null> {
        self.bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The first four bytes: enough to tell a text from machine code.
    pub fn magic(self) -> Result<[u8; 4], Null> {
        let mut magic = [0; 4];
        for (n, byte) in magic.iter_mut().enumerate() {
            *byte = Out(self.0.cast_mut().cast::<u8>().wrapping_add(n)).get()?;
            if *byte == 0 {
                break;
            }
        }
        Ok(magic)
    }
}

/// Memory of the caller's, of a length that is passed beside it.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Bytes(*mut c_void);

impl Bytes {
    pub fn address(self) -> u64 {
        self.0.addr() as u64
    }

    /// So many bytes further on.
    pub fn at(self, offset: usize) -> Bytes {
        Bytes(self.0.cast::<u8>().wrapping_add(offset).cast())
    }

    pub fn read(self, into: &mut [u8]) -> Result<(), Null> {
        if self.0.is_null() {
            return Err(Null);
        }
        // SAFETY: not null, so as many bytes as the caller says; `into` is ours and cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(self.0.cast::<u8>(), into.as_mut_ptr(), into.len()) };
        Ok(())
    }

    pub fn write(self, from: &[u8]) -> Result<(), Null> {
        if self.0.is_null() {
            return Err(Null);
        }
        // SAFETY: not null, so as many bytes as the caller says; `from` is ours and cannot overlap it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.0.cast::<u8>(), from.len()) };
        Ok(())
    }
}
