//! What NVENC encodes, asked of the card: a session is opened, its GUIDs and capabilities read, and it is closed. For
//! that moment it counts against the driver's limit of sessions.

use std::ffi::{c_int, c_void};

use crate::library::Library;
use crate::{Current, LoadError, VideoCodec};

/// The newest API whose structs are known here; a driver's older one is used as it is.
const NEWEST: (u32, u32) = (13, 0);

/// NVENCSTATUS, as far as it says something of the machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvencError {
    /// NV_ENC_ERR_NO_ENCODE_DEVICE (1), NV_ENC_ERR_UNSUPPORTED_DEVICE (2): the card has no encoder.
    #[error("the card has no encoder (NVENC says {0})")]
    NoEncoder(i32),
    /// NV_ENC_ERR_OUT_OF_MEMORY (10), NV_ENC_ERR_INCOMPATIBLE_CLIENT_KEY (21).
    #[error(
        "no session could be opened (NVENC says {0}): the driver's limit of sessions is reached, or memory is short"
    )]
    NoSession(i32),
    /// NV_ENC_ERR_INVALID_VERSION (15).
    #[error("the driver's NVENC is too old (NVENC says 15)")]
    TooOld,
    #[error("{call}: NVENC says {code}")]
    Other { call: &'static str, code: i32 },
}

impl NvencError {
    fn of(call: &'static str, code: c_int) -> NvencError {
        match code {
            1 | 2 => NvencError::NoEncoder(code),
            10 | 21 => NvencError::NoSession(code),
            15 => NvencError::TooOld,
            code => NvencError::Other { call, code },
        }
    }
}

/// What the card encodes of one codec. `None`: this driver does not know the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoder {
    pub codec: VideoCodec,
    /// Pixels.
    pub max_width: Option<u32>,
    pub max_height: Option<u32>,
    pub depth_10: Option<bool>,
    pub yuv_422: Option<bool>,
    pub yuv_444: Option<bool>,
    pub lossless: Option<bool>,
    /// The most B-frames in a row.
    pub b_frames: Option<u32>,
    pub engines: Option<u32>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Guid {
    a: u32,
    b: u16,
    c: u16,
    d: [u8; 8],
}

const H264: Guid = Guid { a: 0x6bc8_2762, b: 0x4e63, c: 0x4ca4, d: [0xaa, 0x85, 0x1e, 0x50, 0xf3, 0x21, 0xf6, 0xbf] };
const HEVC: Guid = Guid { a: 0x790c_dc88, b: 0x4522, c: 0x4d7b, d: [0x94, 0x25, 0xbd, 0xa9, 0x97, 0x5f, 0x76, 0x03] };
const AV1: Guid = Guid { a: 0x0a35_2289, b: 0x0aa7, c: 0x4759, d: [0x86, 0x2d, 0x5d, 0x15, 0xcd, 0x16, 0xd2, 0x54] };

/// NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS.
#[repr(C)]
struct OpenParams {
    version: u32,
    device_type: u32,
    device: *mut c_void,
    reserved: *mut c_void,
    api_version: u32,
    reserved1: [u32; 253],
    reserved2: [*mut c_void; 64],
}

/// NV_ENC_CAPS_PARAM.
#[repr(C)]
struct CapsParam {
    version: u32,
    cap: u32,
    reserved: [u32; 62],
}

/// NV_ENCODE_API_FUNCTION_LIST: version, a reserved word, and 318 pointers.
#[repr(C)]
struct Functions {
    version: u32,
    reserved: u32,
    table: [usize; 318],
}

const _: () = assert!(size_of::<OpenParams>() == 1552);
const _: () = assert!(size_of::<CapsParam>() == 256);
const _: () = assert!(size_of::<Functions>() == 2552);

/// Byte offsets in the function list.
const GUID_COUNT: usize = 16;
const GUIDS: usize = 40;
const CAPS: usize = 64;
const DESTROY: usize = 224;
const OPEN: usize = 240;

type GuidCount = unsafe extern "C" fn(*mut c_void, *mut u32) -> c_int;
type Guids = unsafe extern "C" fn(*mut c_void, *mut Guid, u32, *mut u32) -> c_int;
type Caps = unsafe extern "C" fn(*mut c_void, Guid, *mut CapsParam, *mut c_int) -> c_int;
type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;
type Open = unsafe extern "C" fn(*mut OpenParams, *mut *mut c_void) -> c_int;

/// libnvidia-encode.
pub struct Nvenc {
    /// The newest API of this driver: (13, 0).
    pub newest: (u32, u32),
    /// The API that is spoken: the older of the driver's and ours.
    api: (u32, u32),
    functions: Box<Functions>,
}

impl Nvenc {
    /// Loads libnvidia-encode.so.1 and asks for its functions.
    pub fn open() -> Result<Nvenc, NvencOpenError> {
        let library = Library::open("libnvidia-encode.so.1")?;
        // SAFETY: both symbols have these signatures since API 5.
        let (newest, create) = unsafe {
            let newest: unsafe extern "C" fn(*mut u32) -> c_int =
                library.symbol(c"NvEncodeAPIGetMaxSupportedVersion")?;
            let create: unsafe extern "C" fn(*mut Functions) -> c_int = library.symbol(c"NvEncodeAPICreateInstance")?;
            (newest, create)
        };
        let mut word = 0;
        // SAFETY: a place for one word.
        let code = unsafe { newest(&raw mut word) };
        if code != 0 {
            return Err(NvencError::of("NvEncodeAPIGetMaxSupportedVersion", code).into());
        }
        let newest = (word >> 4, word & 0xf);
        let mut nvenc = Nvenc {
            newest,
            api: newest.min(NEWEST),
            functions: Box::new(Functions { version: 0, reserved: 0, table: [0; 318] }),
        };
        nvenc.functions.version = nvenc.word(2);
        // SAFETY: the list has the size that the assertion above holds, and its version word says so.
        let code = unsafe { create(&raw mut *nvenc.functions) };
        if code != 0 {
            return Err(NvencError::of("NvEncodeAPICreateInstance", code).into());
        }
        Ok(nvenc)
    }

    /// The API's version word, and that of a struct of this version: NVENCAPI_VERSION, NVENCAPI_STRUCT_VERSION.
    fn api_word(&self) -> u32 {
        self.api.0 | self.api.1 << 24
    }

    fn word(&self, version: u32) -> u32 {
        self.api_word() | version << 16 | 0x7 << 28
    }

    fn function(&self, offset: usize) -> Option<usize> {
        self.functions.table.get(offset / 8 - 1).copied().filter(|function| *function != 0)
    }

    /// What the current context's card encodes.
    pub fn encoders(&self, current: &Current<'_>) -> Result<Vec<Encoder>, NvencError> {
        let none = |call| NvencError::Other { call, code: -1 };
        let find = |offset, call| self.function(offset).ok_or(none(call));
        let (open, destroy) = (find(OPEN, "nvEncOpenEncodeSessionEx")?, find(DESTROY, "nvEncDestroyEncoder")?);
        let (count, guids) = (find(GUID_COUNT, "nvEncGetEncodeGUIDCount")?, find(GUIDS, "nvEncGetEncodeGUIDs")?);
        let caps = find(CAPS, "nvEncGetEncodeCaps")?;
        // SAFETY: NvEncodeAPICreateInstance filled the list; these are its functions at these places, and none is null.
        let (open, destroy, count, guids, caps) = unsafe {
            (
                std::mem::transmute::<usize, Open>(open),
                std::mem::transmute::<usize, Destroy>(destroy),
                std::mem::transmute::<usize, GuidCount>(count),
                std::mem::transmute::<usize, Guids>(guids),
                std::mem::transmute::<usize, Caps>(caps),
            )
        };
        let mut params = OpenParams {
            version: self.word(1),
            // NV_ENC_DEVICE_TYPE_CUDA
            device_type: 1,
            device: current.context,
            reserved: std::ptr::null_mut(),
            api_version: self.api_word(),
            reserved1: [0; 253],
            reserved2: [std::ptr::null_mut(); 64],
        };
        let mut session: *mut c_void = std::ptr::null_mut();
        // SAFETY: the struct is as its version word says; the context is current and outlives the session.
        let code = unsafe { open(&raw mut params, &raw mut session) };
        // Even where opening failed, a session that was given must be destroyed (NVENC programming guide).
        let session = Session { session, destroy };
        if code != 0 {
            return Err(NvencError::of("nvEncOpenEncodeSessionEx", code));
        }
        let mut number = 0;
        // SAFETY: an open session and a place for one word.
        let code = unsafe { count(session.session, &raw mut number) };
        if code != 0 {
            return Err(NvencError::of("nvEncGetEncodeGUIDCount", code));
        }
        // A driver that says more than any will have is not believed.
        let mut known = vec![Guid::default(); number.min(64) as usize];
        let mut got = 0;
        // SAFETY: `known` has as many places as are said.
        let code = unsafe { guids(session.session, known.as_mut_ptr(), known.len() as u32, &raw mut got) };
        if code != 0 {
            return Err(NvencError::of("nvEncGetEncodeGUIDs", code));
        }
        known.truncate(got as usize);
        let ask = |guid: Guid, cap: u32| {
            let mut param = CapsParam { version: self.word(1), cap, reserved: [0; 62] };
            let mut value = 0;
            // SAFETY: an open session, the struct as its version word says, and a place for one int.
            let code = unsafe { caps(session.session, guid, &raw mut param, &raw mut value) };
            (code == 0).then_some(value)
        };
        let encoder = |guid: Guid| {
            let codec = match guid {
                H264 => VideoCodec::H264,
                HEVC => VideoCodec::Hevc,
                AV1 => VideoCodec::Av1,
                _ => return None,
            };
            let number = |cap| ask(guid, cap).and_then(|value| u32::try_from(value).ok());
            let yes = |cap| ask(guid, cap).map(|value| value != 0);
            // NV_ENC_CAPS's numbers.
            Some(Encoder {
                codec,
                max_width: number(16),
                max_height: number(17),
                depth_10: yes(39),
                yuv_422: yes(59),
                yuv_444: yes(33),
                lossless: yes(34),
                b_frames: number(0),
                engines: number(49),
            })
        };
        Ok(known.into_iter().filter_map(encoder).collect())
    }
}

/// Why NVENC could not be asked at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvencOpenError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Call(#[from] NvencError),
}

struct Session {
    session: *mut c_void,
    destroy: Destroy,
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.session.is_null() {
            // SAFETY: given by nvEncOpenEncodeSessionEx and destroyed once.
            unsafe { (self.destroy)(self.session) };
        }
    }
}
