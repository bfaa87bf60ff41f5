//! The messages of QEMU's multi-process proxy (`x-pci-proxy-dev`): what the emulated machine asks of a PCI function
//! that lives in another process. Native byte order; a header of 16 bytes {i32 command, 4 bytes of padding, u64 size},
//! then `size` bytes. Source: QEMU's docs/devel/multi-process and the header of its mpqemu link, version 7.2.

use std::io::{self, Read};

/// Bytes of a message's header.
const HEADER: usize = 16;
/// The longest body that QEMU sends is the memory map, 192 bytes. A larger claim is not worth an allocation.
const LONGEST: u64 = 4096;

const SYNC_SYSMEM: i32 = 0;
const RET: i32 = 1;
const CONFIG_WRITE: i32 = 2;
const CONFIG_READ: i32 = 3;
const BAR_WRITE: i32 = 4;
const BAR_READ: i32 = 5;
const SET_IRQFD: i32 = 6;
const RESET: i32 = 7;

/// One access to the function's configuration space. `offset + width` is at most 256, `width` is 1, 2 or 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigAccess {
    pub offset: u8,
    pub width: u8,
    /// What is written; 0 for a read.
    pub value: u32,
}

/// One access to a BAR, by the address on the bus and not by the offset in the BAR. `width` is 1, 2, 4 or 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarAccess {
    pub address: u64,
    pub width: u8,
    /// What is written; 0 for a read.
    pub value: u64,
    /// Memory space, not I/O ports.
    pub memory: bool,
}

/// What QEMU asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The guest's memory map; its descriptors ride beside the bytes. No answer.
    SyncMemory,
    ConfigWrite(ConfigAccess),
    ConfigRead(ConfigAccess),
    BarWrite(BarAccess),
    BarRead(BarAccess),
    /// The descriptors of the interrupt line ride beside the bytes. No answer.
    SetInterrupt,
    Reset,
}

/// A message that is none.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("QEMU's proxy sent command {0}, which thruway does not know")]
    Command(i32),
    #[error("QEMU's proxy sent a body of {size} bytes with command {command}, where {wanted} belong")]
    Size { command: i32, size: u64, wanted: usize },
    #[error("QEMU's proxy asked for {width} bytes at {address:#x}: no such access exists")]
    Access { address: u64, width: u64 },
    #[error("QEMU's proxy ended in the middle of a message")]
    Truncated,
    #[error("QEMU's proxy cannot be read: {0}")]
    Io(#[from] io::Error),
}

impl Message {
    /// The next message; `None` at the end of the stream between two messages.
    ///
    /// Descriptors that ride beside the bytes are closed by the kernel, since a plain read takes no ancillary data:
    /// the fake card neither touches the guest's memory nor raises interrupts.
    pub fn read(stream: &mut impl Read) -> Result<Option<Message>, WireError> {
        let mut header = [0; HEADER];
        if !fill(stream, &mut header)? {
            return Ok(None);
        }
        let command = i32::from_ne_bytes(bytes(&header, 0));
        let size = u64::from_ne_bytes(bytes(&header, 8));
        if size > LONGEST {
            return Err(WireError::Size { command, size, wanted: 0 });
        }
        let mut body = vec![0; usize::try_from(size).map_err(|_| WireError::Truncated)?];
        if !body.is_empty() && !fill(stream, &mut body)? {
            return Err(WireError::Truncated);
        }
        Message::parse(command, &body).map(Some)
    }

    fn parse(command: i32, body: &[u8]) -> Result<Message, WireError> {
        match command {
            SYNC_SYSMEM => Ok(Message::SyncMemory),
            CONFIG_WRITE => config(command, body, true).map(Message::ConfigWrite),
            CONFIG_READ => config(command, body, false).map(Message::ConfigRead),
            BAR_WRITE => bar(command, body, true).map(Message::BarWrite),
            BAR_READ => bar(command, body, false).map(Message::BarRead),
            SET_IRQFD => sized::<0>(command, body).map(|_| Message::SetInterrupt),
            RESET => sized::<0>(command, body).map(|_| Message::Reset),
            other => Err(WireError::Command(other)),
        }
    }

    /// Whether QEMU waits for an answer.
    pub fn wants_answer(&self) -> bool {
        !matches!(self, Message::SyncMemory | Message::SetInterrupt)
    }
}

/// The answer that carries a value (0 for a write or a reset), as bytes to send.
pub fn answer(value: u64) -> [u8; HEADER + 8] {
    let mut bytes = [0; HEADER + 8];
    bytes[..4].copy_from_slice(&RET.to_ne_bytes());
    bytes[8..16].copy_from_slice(&8_u64.to_ne_bytes());
    bytes[16..].copy_from_slice(&value.to_ne_bytes());
    bytes
}

/// Fills the whole buffer; false where the stream ended before its first byte.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> Result<bool, WireError> {
    let mut have = 0;
    while let Some(rest) = buffer.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) if have == 0 => return Ok(false),
            Ok(0) => return Err(WireError::Truncated),
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A killed QEMU resets the connection; between messages that is an end like another.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && have == 0 => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

fn sized<const N: usize>(command: i32, body: &[u8]) -> Result<[u8; N], WireError> {
    body.try_into().map_err(|_| WireError::Size { command, size: body.len() as u64, wanted: N })
}

/// `N` bytes at an offset that the callers' array sizes guarantee; zeros past the end.
fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

/// {u32 address, u32 value, i32 length}
fn config(command: i32, body: &[u8], write: bool) -> Result<ConfigAccess, WireError> {
    let body = sized::<12>(command, body)?;
    let address = u32::from_ne_bytes(bytes(&body, 0));
    let value = u32::from_ne_bytes(bytes(&body, 4));
    let length = u32::from_ne_bytes(bytes(&body, 8));
    let bad = || WireError::Access { address: address.into(), width: length.into() };
    let offset = u8::try_from(address).map_err(|_| bad())?;
    let width = u8::try_from(length).ok().filter(|width| matches!(width, 1 | 2 | 4)).ok_or_else(bad)?;
    if usize::from(offset) + usize::from(width) > 256 {
        return Err(bad());
    }
    Ok(ConfigAccess { offset, width, value: if write { value } else { 0 } })
}

/// {u64 address, u64 value, u32 size, u8 memory, 3 bytes of padding}
fn bar(command: i32, body: &[u8], write: bool) -> Result<BarAccess, WireError> {
    let body = sized::<24>(command, body)?;
    let address = u64::from_ne_bytes(bytes(&body, 0));
    let value = u64::from_ne_bytes(bytes(&body, 8));
    let size = u32::from_ne_bytes(bytes(&body, 16));
    let bad = WireError::Access { address, width: size.into() };
    let width = u8::try_from(size).ok().filter(|width| matches!(width, 1 | 2 | 4 | 8)).ok_or(bad)?;
    let [memory] = bytes(&body, 20);
    Ok(BarAccess { address, width, value: if write { value } else { 0 }, memory: memory != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(command: i32, body: &[u8]) -> Vec<u8> {
        let mut bytes = command.to_ne_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend((body.len() as u64).to_ne_bytes());
        bytes.extend(body);
        bytes
    }

    fn config_body(address: u32, value: u32, length: i32) -> Vec<u8> {
        [address.to_ne_bytes(), value.to_ne_bytes(), length.to_ne_bytes()].concat()
    }

    fn bar_body(address: u64, value: u64, size: u32, memory: u8) -> Vec<u8> {
        let mut body = [address.to_ne_bytes(), value.to_ne_bytes()].concat();
        body.extend(size.to_ne_bytes());
        body.extend([memory, 0, 0, 0]);
        body
    }

    fn read(bytes: &[u8]) -> Result<Option<Message>, WireError> {
        Message::read(&mut &*bytes)
    }

    #[test]
    fn accesses_are_read() {
        let write = read(&message(2, &config_body(0x10, u32::MAX, 4))).expect("a message");
        let access = ConfigAccess { offset: 0x10, width: 4, value: u32::MAX };
        assert_eq!(write, Some(Message::ConfigWrite(access)));
        let bar = read(&message(4, &bar_body(0xfe00_0008, 7, 8, 1))).expect("a message");
        let access = BarAccess { address: 0xfe00_0008, width: 8, value: 7, memory: true };
        assert_eq!(bar, Some(Message::BarWrite(access)));
        let memory = read(&message(0, &[0; 192])).expect("a message").expect("a message");
        assert!(!memory.wants_answer());
        assert!(Message::Reset.wants_answer());
        assert!(read(&[]).expect("a clean end").is_none());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |bytes: &[u8]| read(bytes).expect_err("an error").to_string();
        assert!(refused(&message(99, &[])).contains("command 99"));
        assert!(refused(&message(-1, &[])).contains("command -1"));
        assert!(refused(&message(3, &[0; 8])).contains("8 bytes"));
        assert!(refused(&message(7, &[0; 8])).contains("8 bytes"));
        assert!(refused(&message(3, &config_body(0xfe, 0, 4))).contains("no such access"));
        assert!(refused(&message(3, &config_body(0x1000, 0, 4))).contains("no such access"));
        assert!(refused(&message(3, &config_body(0, 0, -1))).contains("no such access"));
        assert!(refused(&message(3, &config_body(0, 0, 3))).contains("no such access"));
        assert!(refused(&message(5, &bar_body(0, 0, 16, 1))).contains("no such access"));
        let mut huge = message(0, &[]);
        huge[8..16].copy_from_slice(&u64::MAX.to_ne_bytes());
        assert!(refused(&huge).contains("18446744073709551615 bytes"));
    }

    #[test]
    fn a_message_cut_anywhere_is_truncated() {
        let whole = message(3, &config_body(0, 0, 4));
        for length in 1..whole.len() {
            let error = read(&whole[..length]).expect_err("cut");
            assert!(matches!(error, WireError::Truncated), "{length}: {error}");
        }
    }

    #[test]
    fn an_answer_is_a_return_of_eight_bytes() {
        assert_eq!(answer(0x1d01_10de).to_vec(), message(RET, &0x1d01_10de_u64.to_ne_bytes()));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(command in -2..10_i32, body in proptest::collection::vec(any::<u8>(), 0..40), cut in 0..60_usize) {
            let bytes = message(command, &body);
            match read(&bytes[..bytes.len().min(cut)]) {
                Ok(Some(Message::ConfigRead(access) | Message::ConfigWrite(access))) => {
                    prop_assert!(usize::from(access.offset) + usize::from(access.width) <= 256);
                }
                Ok(Some(Message::BarRead(access) | Message::BarWrite(access))) => {
                    prop_assert!(matches!(access.width, 1 | 2 | 4 | 8));
                }
                Ok(Some(_)) => prop_assert!(matches!(command, 0 | 6 | 7)),
                Ok(None) => prop_assert_eq!(cut, 0),
                Err(_) => {}
            }
        }

        #[test]
        fn an_access_is_read_as_it_was_written(offset in 0..=252_u8, value: u32, address: u64, wide: u64) {
            let config = ConfigAccess { offset, width: 4, value };
            let bytes = message(2, &config_body(offset.into(), value, 4));
            prop_assert_eq!(read(&bytes).expect("a message"), Some(Message::ConfigWrite(config)));
            let bar = BarAccess { address, width: 8, value: wide, memory: false };
            let bytes = message(4, &bar_body(address, wide, 8, 0));
            prop_assert_eq!(read(&bytes).expect("a message"), Some(Message::BarWrite(bar)));
        }
    }
}
