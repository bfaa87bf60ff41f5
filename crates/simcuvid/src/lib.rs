//! A simulated `libnvcuvid.so.1`: what the box's card decodes, by cuvidGetDecoderCaps. Nothing is decoded: a decoder cannot be
//! made, and that is said.
//!
//! The library says that it is simulated on stderr (unless `THRUWAY_SIM_QUIET`) and by the symbol `thruway_simulated`. The
//! struct is that of the Video Codec SDK's public header; what it holds for what is not decoded (nothing but zeros), and that
//! a number beyond all codecs is no error, is as a real H100 answered.
#![allow(unsafe_code, reason = "exported by their names")]

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use simcards::abi::Out;
use simcards::eye::{Blind, Eye};
use simcards::view::View;
use simcards::{neighbour, place};

static EYE: Eye = Eye::new("libnvcuvid");

/// Who wants to know whether this is a simulation looks for this symbol: a C string.
#[unsafe(export_name = "thruway_simulated")]
pub static THRUWAY_SIMULATED: [u8; 30] = *b"thruway: simulated libnvcuvid\0";

// CUresult
const INVALID_VALUE: i32 = 1;
const NO_DEVICE: i32 = 100;
const NOT_SUPPORTED: i32 = 801;
const UNKNOWN: i32 = 999;

/// CUVIDDECODECAPS.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Caps {
    codec: i32,
    chroma: i32,
    depth_minus_8: u32,
    reserved1: [u32; 3],
    supported: u8,
    engines: u8,
    formats: u16,
    max_width: u32,
    max_height: u32,
    max_macroblocks: u32,
    min_width: u16,
    min_height: u16,
    histogram: u8,
    counter_depth: u8,
    histogram_bins: u16,
    reserved3: [u32; 10],
}

const _: () = assert!(size_of::<Caps>() == 88 && std::mem::offset_of!(Caps, histogram_bins) == 46);

fn enter(name: &str, body: impl FnOnce(&View) -> Result<(), i32>) -> i32 {
    let look = || {
        let view: Arc<View> = EYE.look().map_err(|blind| if blind == Blind::NoBox { NO_DEVICE } else { UNKNOWN })?;
        match view.fault(&[name]) {
            Some(code) => Err(code.cast_signed()),
            None => body(&view),
        }
    };
    let code = match catch_unwind(AssertUnwindSafe(look)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code,
        Err(_) => UNKNOWN,
    };
    place::trace(name, code.unsigned_abs());
    code
}

/// The surfaces that a picture may be given as: bits of cudaVideoSurfaceFormat. 8 bits are NV12 (0), more are P016 (1);
/// 4:4:4 has its own of 8 bits (2) and of 16 (3), 4:2:2 too (4, 5). What has no colour comes as NV12.
fn formats(chroma: i32, depth: u32) -> u16 {
    match (chroma, depth > 8) {
        (3, false) => 1 << 2,
        (3, true) => 1 << 3,
        (2, false) => 1 << 4,
        (2, true) => 1 << 5,
        (_, false) => 1,
        (_, true) => 3,
    }
}

#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
unsafe extern "C" fn cuvidGetDecoderCaps(caps: Out<Caps>) -> i32 {
    enter("cuvidGetDecoderCaps", |view| {
        let asked = caps.get().map_err(|_| INVALID_VALUE)?;
        let gpu = neighbour::current(view)?;
        EYE.tell(&format!("{} of nothing real", gpu.card.name));
        let depth = asked.depth_minus_8.saturating_add(8);
        // a depth between two is that of the next, as the hardware has it
        let depth = depth + (depth & 1);
        let Caps { codec, chroma, depth_minus_8, reserved1, .. } = asked;
        let nothing = Caps { codec, chroma, depth_minus_8, reserved1, ..Caps::default() };
        // an instance of a card that is cut up has its own engines, or none
        let own = neighbour::profile(gpu);
        let share = |jpeg: bool, all: u8| {
            let part = |own: &simcards::card::Profile| if jpeg { own.jpeg.min(1) } else { own.dec };
            own.map_or(all, |own| u8::try_from(part(own)).unwrap_or(u8::MAX))
        };
        let found = gpu.card.video.decode(codec, chroma, depth);
        let found = found.map(|(row, engines)| (row, share(row.codec == "jpeg", engines)));
        let answer = found.filter(|(_, engines)| *engines > 0).map_or(nothing, |(row, engines)| {
            let ([max_width, max_height], [min_width, min_height]) = (row.max, row.min);
            // JPEG is always given as NV12, and H.264 alone can count a histogram
            let (jpeg, h264) = (row.codec == "jpeg", row.codec == "h264");
            Caps {
                supported: 1,
                engines,
                formats: if jpeg { 1 } else { formats(chroma, depth) },
                max_width,
                max_height,
                max_macroblocks: row.macroblocks.unwrap_or(max_width / 16 * (max_height / 16)),
                min_width,
                min_height,
                histogram: u8::from(h264),
                counter_depth: if h264 { 32 } else { 0 },
                histogram_bins: if h264 { 256 } else { 0 },
                ..nothing
            }
        });
        caps.put(answer).map_err(|_| INVALID_VALUE)
    })
}

/// Functions that are there and do nothing.
macro_rules! refused {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, reason = "the C interface")]
        unsafe extern "C" fn $name() -> i32 {
            enter(stringify!($name), |_| {
                EYE.tell(concat!(stringify!($name), ": pictures are not decoded here, only asked about"));
                Err(NOT_SUPPORTED)
            })
        }
    )*};
}
refused! {
    cuvidCreateDecoder cuvidDestroyDecoder cuvidDecodePicture cuvidGetDecodeStatus cuvidReconfigureDecoder
    cuvidMapVideoFrame cuvidMapVideoFrame64 cuvidUnmapVideoFrame cuvidUnmapVideoFrame64
    cuvidCreateVideoSource cuvidCreateVideoSourceW cuvidDestroyVideoSource cuvidSetVideoSourceState
    cuvidGetVideoSourceState cuvidGetSourceVideoFormat cuvidGetSourceAudioFormat
    cuvidCreateVideoParser cuvidParseVideoData cuvidDestroyVideoParser
}

/// A lock is a number: clients take it and give it back.
#[unsafe(no_mangle)]
#[allow(non_snake_case, reason = "the C interface")]
unsafe extern "C" fn cuvidCtxLockCreate(lock: Out<usize>, _context: *mut c_void) -> i32 {
    enter("cuvidCtxLockCreate", |_| lock.put(0x51d0).map_err(|_| INVALID_VALUE))
}

macro_rules! done {
    ($($name:ident)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case, reason = "the C interface")]
        unsafe extern "C" fn $name() -> i32 {
            enter(stringify!($name), |_| Ok(()))
        }
    )*};
}
done! { cuvidCtxLockDestroy cuvidCtxLock cuvidCtxUnlock }
