//! A simulated `libnvidia-encode.so.1`: sessions are opened, asked what the card encodes, and closed. Nothing is encoded: an
//! encoder cannot be started, and that is said.
//!
//! A card without NVENC refuses a session as a real H100 did: NV_ENC_ERR_UNSUPPORTED_DEVICE, after the struct's version and
//! the null pointers were looked at and before anything else. GeForce cards share the driver's limit of sessions; the one too
//! many gets NV_ENC_ERR_OUT_OF_MEMORY. The library says that it is simulated on stderr (unless `THRUWAY_SIM_QUIET`) and by the
//! symbol `thruway_simulated`. Structs and numbers are those of the Video Codec SDK's public header.
#![allow(unsafe_code, reason = "exported by their names, and called through a table")]

mod guids;
mod sessions;

use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use guids::{AV1, Guid, H264, HEVC, PRESETS, profiles};
use simcards::abi::{Null, Out};
use simcards::eye::{Blind, Eye};
use simcards::video::Encode;
use simcards::view::{Gpu, View};
use simcards::{branch, neighbour, place};

static EYE: Eye = Eye::new("libnvidia-encode");

/// Who wants to know whether this is a simulation looks for this symbol: a C string.
#[unsafe(export_name = "thruway_simulated")]
pub static THRUWAY_SIMULATED: [u8; 36] = *b"thruway: simulated libnvidia-encode\0";

/// NVENCSTATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Status(i32);
const NO_ENCODE_DEVICE: Status = Status(1);
const UNSUPPORTED_DEVICE: Status = Status(2);
const INVALID_ENCODERDEVICE: Status = Status(3);
const INVALID_DEVICE: Status = Status(4);
const INVALID_PTR: Status = Status(6);
const INVALID_PARAM: Status = Status(8);
const OUT_OF_MEMORY: Status = Status(10);
const UNSUPPORTED_PARAM: Status = Status(12);
const INVALID_VERSION: Status = Status(15);
const GENERIC: Status = Status(20);
const UNIMPLEMENTED: Status = Status(22);

type Answer<T = ()> = Result<T, Status>;

impl From<Null> for Status {
    fn from(_: Null) -> Status {
        INVALID_PTR
    }
}

/// GeForce, by nvmlBrandType_t.
const GEFORCE: u32 = 5;
/// The functions of the list: as many as API 13.0 has.
const FUNCTIONS: usize = 43;
/// NV_ENC_CAPS_EXPOSED_COUNT of API 13.0.
const CAPS: u32 = 60;

/// NV_ENC_OPEN_ENCODE_SESSION_EX_PARAMS, as far as it is read; 1552 bytes.
#[repr(C)]
#[derive(Clone, Copy)]
struct Params {
    version: u32,
    device_type: u32,
    device: *mut c_void,
    reserved: *mut c_void,
    api: u32,
}

/// An open session.
struct Session {
    /// The card's index.
    gpu: usize,
    /// Its part of the limit, where there is one.
    #[allow(dead_code, reason = "held until the session ends")]
    slot: Option<sessions::Slot>,
}

type Handle = usize;

static SESSIONS: Mutex<(Handle, Option<HashMap<Handle, Session>>)> = Mutex::new((0, None));

fn sessions() -> MutexGuard<'static, (Handle, Option<HashMap<Handle, Session>>)> {
    // one insertion or removal at a time: a panic in between spoils nothing
    SESSIONS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enter(name: &str, body: impl FnOnce(&View) -> Answer) -> i32 {
    let look = || {
        let view: Arc<View> =
            EYE.look().map_err(|blind| if blind == Blind::NoBox { NO_ENCODE_DEVICE } else { GENERIC })?;
        match view.fault(&[name]) {
            Some(code) => Err(Status(code.cast_signed())),
            None => body(&view),
        }
    };
    let code = match catch_unwind(AssertUnwindSafe(look)) {
        Ok(Ok(())) => 0,
        Ok(Err(Status(code))) => code,
        Err(_) => GENERIC.0,
    };
    place::trace(name, code.unsigned_abs());
    code
}

fn newest(view: &View) -> (u32, u32) {
    branch::nvenc_api(view.branch())
}

#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
unsafe extern "C" fn NvEncodeAPIGetMaxSupportedVersion(version: Out<u32>) -> i32 {
    enter("NvEncodeAPIGetMaxSupportedVersion", |view| {
        let (major, minor) = newest(view);
        Ok(version.put(major << 4 | minor)?)
    })
}

/// The list's first word is looked at for the mark of every struct's version only, as the real one does.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
unsafe extern "C" fn NvEncodeAPICreateInstance(list: Out<u32>) -> i32 {
    enter("NvEncodeAPICreateInstance", |_| {
        if list.get()? >> 28 & 7 != 7 {
            return Err(INVALID_VERSION);
        }
        let functions = list.at(2).cast::<*const ()>();
        for n in 0..FUNCTIONS {
            functions.at(n).put(function(n))?;
        }
        Ok(())
    })
}

/// By its place in NV_ENCODE_API_FUNCTION_LIST.
fn function(n: usize) -> *const () {
    match n {
        1 => guid_count as *const (),
        2 => profile_count as *const (),
        3 => profile_guids as *const (),
        4 => codec_guids as *const (),
        5 => format_count as *const (),
        6 => formats as *const (),
        7 => caps as *const (),
        8 => preset_count as *const (),
        9 => preset_guids as *const (),
        27 => destroy as *const (),
        29 => open as *const (),
        37 => last_error as *const (),
        _ => missing as *const (),
    }
}

unsafe extern "C" fn missing() -> i32 {
    enter("a function of NVENC", |_| {
        EYE.tell("pictures are not encoded here, only asked about");
        Err(UNIMPLEMENTED)
    })
}

/// Whose card, and whether it may be opened.
fn opened(view: &View, params: Out<Params>) -> Answer<Session> {
    let word = params.cast::<u32>().get()?;
    // version 1 of the struct, and the mark
    if word >> 28 & 7 != 7 || word >> 16 & 0xff != 1 {
        return Err(INVALID_VERSION);
    }
    let params = params.get()?;
    if params.device.is_null() {
        return Err(INVALID_PTR);
    }
    let gpu = neighbour::of(view, params.device).map_err(|_| INVALID_DEVICE)?;
    EYE.tell(&format!("{}, none of it real; driver {}", gpu.card.name, view.driver.version));
    // NV_ENC_DEVICE_TYPE_CUDA
    if gpu.card.video.nvenc == 0 || params.device_type != 1 {
        return Err(UNSUPPORTED_DEVICE);
    }
    let (api_major, api_minor) = (params.api & 0xffff, params.api >> 24);
    if (api_major, api_minor) > newest(view) {
        return Err(INVALID_VERSION);
    }
    let slot = if gpu.card.brand == GEFORCE {
        sessions::take(branch::sessions(view.branch())).ok_or(OUT_OF_MEMORY)?
    } else {
        None
    };
    Ok(Session { gpu: gpu.index as usize, slot })
}

unsafe extern "C" fn open(params: Out<Params>, handle: Out<Handle>) -> i32 {
    enter("nvEncOpenEncodeSessionEx", |view| {
        if handle.is_null() || params.is_null() {
            return Err(INVALID_PTR);
        }
        handle.put(0)?;
        let session = opened(view, params)?;
        let mut all = sessions();
        all.0 += 1;
        let number = 0x51e0_0000_0000 + all.0 * 16;
        all.1.get_or_insert_default().insert(number, session);
        Ok(handle.put(number)?)
    })
}

unsafe extern "C" fn destroy(session: Handle) -> i32 {
    enter("nvEncDestroyEncoder", |_| {
        sessions().1.get_or_insert_default().remove(&session).map(|_| ()).ok_or(INVALID_ENCODERDEVICE)
    })
}

unsafe extern "C" fn last_error(_session: Handle) -> *const std::ffi::c_char {
    c"".as_ptr()
}

fn gpu(view: &View, session: Handle) -> Answer<&Gpu> {
    let index = sessions().1.get_or_insert_default().get(&session).ok_or(INVALID_ENCODERDEVICE)?.gpu;
    view.gpus.get(index).filter(|gpu| !gpu.lost).ok_or(GENERIC)
}

/// The codecs of a card which this driver's API knows.
fn encoders<'a>(view: &View, gpu: &'a Gpu) -> Vec<(Guid, &'a Encode)> {
    let known = |row: &'a Encode| match row.codec.as_str() {
        "h264" => Some((H264, row)),
        "hevc" => Some((HEVC, row)),
        "av1" if newest(view) >= (12, 0) => Some((AV1, row)),
        _ => None,
    };
    gpu.card.video.encodes.iter().filter_map(known).collect()
}

fn encoder<'a>(view: &View, gpu: &'a Gpu, codec: Guid) -> Answer<&'a Encode> {
    let found = encoders(view, gpu).into_iter().find(|(guid, _)| *guid == codec);
    found.map(|(_, row)| row).ok_or(UNSUPPORTED_PARAM)
}

/// As many as there is room for, and how many that are.
fn list<T: Copy>(items: &[T], to: Out<T>, room: u32, count: Out<u32>) -> Answer {
    let number = items.len().min(room as usize);
    for (n, item) in items.iter().take(number).enumerate() {
        to.at(n).put(*item)?;
    }
    Ok(count.put(u32::try_from(number).unwrap_or(0))?)
}

fn count<T>(items: &[T], to: Out<u32>) -> Answer {
    Ok(to.put(u32::try_from(items.len()).unwrap_or(0))?)
}

unsafe extern "C" fn guid_count(session: Handle, number: Out<u32>) -> i32 {
    enter("nvEncGetEncodeGUIDCount", |view| count(&encoders(view, gpu(view, session)?), number))
}

unsafe extern "C" fn codec_guids(session: Handle, to: Out<Guid>, room: u32, number: Out<u32>) -> i32 {
    enter("nvEncGetEncodeGUIDs", |view| {
        let all: Vec<Guid> = encoders(view, gpu(view, session)?).into_iter().map(|(guid, _)| guid).collect();
        list(&all, to, room, number)
    })
}

unsafe extern "C" fn preset_count(session: Handle, codec: Guid, number: Out<u32>) -> i32 {
    enter("nvEncGetEncodePresetCount", |view| {
        encoder(view, gpu(view, session)?, codec)?;
        count(&PRESETS, number)
    })
}

unsafe extern "C" fn preset_guids(session: Handle, codec: Guid, to: Out<Guid>, room: u32, number: Out<u32>) -> i32 {
    enter("nvEncGetEncodePresetGUIDs", |view| {
        encoder(view, gpu(view, session)?, codec)?;
        list(&PRESETS, to, room, number)
    })
}

fn profiles_of(view: &View, session: Handle, codec: Guid) -> Answer<Vec<Guid>> {
    let row = encoder(view, gpu(view, session)?, codec)?;
    Ok(profiles(&row.codec, row.yuv_444, row.depth_10))
}

unsafe extern "C" fn profile_count(session: Handle, codec: Guid, number: Out<u32>) -> i32 {
    enter("nvEncGetEncodeProfileGUIDCount", |view| count(&profiles_of(view, session, codec)?, number))
}

unsafe extern "C" fn profile_guids(session: Handle, codec: Guid, to: Out<Guid>, room: u32, number: Out<u32>) -> i32 {
    enter("nvEncGetEncodeProfileGUIDs", |view| list(&profiles_of(view, session, codec)?, to, room, number))
}

/// NV_ENC_BUFFER_FORMAT's bits.
fn formats_of(view: &View, session: Handle, codec: Guid) -> Answer<Vec<u32>> {
    let row = encoder(view, gpu(view, session)?, codec)?;
    let mut all = vec![0x1, 0x10, 0x100];
    all.extend(row.yuv_444.then_some(0x1000));
    all.extend(row.depth_10.then_some(0x1_0000));
    all.extend((row.depth_10 && row.yuv_444).then_some(0x10_0000));
    // packed RGB, of 8 and of 10 bits
    all.extend([0x100_0000, 0x400_0000, 0x1000_0000]);
    all.extend(row.depth_10.then_some([0x200_0000, 0x2000_0000]).into_iter().flatten());
    Ok(all)
}

unsafe extern "C" fn format_count(session: Handle, codec: Guid, number: Out<u32>) -> i32 {
    enter("nvEncGetInputFormatCount", |view| count(&formats_of(view, session, codec)?, number))
}

unsafe extern "C" fn formats(session: Handle, codec: Guid, to: Out<u32>, room: u32, number: Out<u32>) -> i32 {
    enter("nvEncGetInputFormats", |view| list(&formats_of(view, session, codec)?, to, room, number))
}

/// NV_ENC_CAPS_PARAM is two words and reserved ones.
unsafe extern "C" fn caps(session: Handle, codec: Guid, param: Out<[u32; 2]>, value: Out<i32>) -> i32 {
    enter("nvEncGetEncodeCaps", |view| {
        let gpu = gpu(view, session)?;
        let row = encoder(view, gpu, codec)?;
        let [version, number] = param.get()?;
        if version >> 28 & 7 != 7 || version >> 16 & 0xff != 1 {
            return Err(INVALID_VERSION);
        }
        Ok(value.put(cap(view, gpu, row, number).ok_or(INVALID_PARAM)?)?)
    })
}

/// By NV_ENC_CAPS's numbers; None for those that this driver does not know.
fn cap(view: &View, gpu: &Gpu, row: &Encode, number: u32) -> Option<i32> {
    let api = newest(view);
    // the number of engines came with 11.0, 4:2:2 with 13.0
    if number >= CAPS || number >= 49 && api < (11, 0) || number >= 58 && api < (13, 0) {
        return None;
    }
    Some(match number {
        0 => row.b_frames,
        16 => row.max[0],
        17 => row.max[1],
        33 => row.yuv_444.into(),
        34 => row.lossless.into(),
        39 => row.depth_10.into(),
        // what is left of its capacity, per cent
        42 => 100 - i32::try_from(gpu.card.load.encoder).unwrap_or(0).min(100),
        45 => row.min[0],
        46 => row.min[1],
        49 => gpu.card.video.nvenc.into(),
        59 => row.yuv_422.into(),
        number => row.caps.get(&number.to_string()).copied().unwrap_or(0),
    })
}
