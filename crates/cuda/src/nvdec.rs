//! What NVDEC decodes, asked of the card: cuvidGetDecoderCaps for each codec, chroma format and depth.

use std::ffi::c_int;

use crate::library::Library;
use crate::{CudaError, Current, LoadError};

/// cudaVideoCodec's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VideoCodec {
    Mpeg1 = 0,
    Mpeg2 = 1,
    Mpeg4 = 2,
    Vc1 = 3,
    H264 = 4,
    Jpeg = 5,
    Hevc = 8,
    Vp8 = 9,
    Vp9 = 10,
    Av1 = 11,
}

/// cudaVideoChromaFormat's numbers.
const CHROMAS: [&str; 4] = ["400", "420", "422", "444"];

/// What is asked, by codec: chroma formats and depths. A call takes the driver some 10 ms, so nothing is asked that the
/// codec's own standard or any NVDEC has not: the older codecs have 4:2:0 of 8 bits alone.
const ASKED: [(VideoCodec, &[usize], &[u8]); 10] = [
    (VideoCodec::Mpeg1, &[1], &[8]),
    (VideoCodec::Mpeg2, &[1], &[8]),
    (VideoCodec::Mpeg4, &[1], &[8]),
    (VideoCodec::Vc1, &[1], &[8]),
    (VideoCodec::H264, &[1, 2], &[8, 10]),
    (VideoCodec::Jpeg, &[1, 0, 2, 3], &[8]),
    (VideoCodec::Hevc, &[1, 2, 3], &[8, 10, 12]),
    (VideoCodec::Vp8, &[1], &[8]),
    (VideoCodec::Vp9, &[1], &[8, 10, 12]),
    (VideoCodec::Av1, &[1, 0, 3], &[8, 10]),
];

/// One combination that the card decodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoder {
    pub codec: VideoCodec,
    /// "400" (mono), "420", "422", "444".
    pub chroma: &'static str,
    /// Bits of a sample.
    pub depth: u8,
    /// Engines; 0 where the driver is too old to say.
    pub engines: u8,
    /// Pixels.
    pub max_width: u32,
    pub max_height: u32,
    pub min_width: u16,
    pub min_height: u16,
    /// Macroblocks of 16 × 16 pixels in a picture.
    pub max_macroblocks: u32,
}

/// CUVIDDECODECAPS.
#[repr(C)]
#[derive(Default)]
struct Caps {
    codec: c_int,
    chroma: c_int,
    depth_minus_8: u32,
    reserved1: [u32; 3],
    supported: u8,
    engines: u8,
    output_formats: u16,
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

const _: () = assert!(size_of::<Caps>() == 88 && std::mem::offset_of!(Caps, max_width) == 28);

/// libnvcuvid.
pub struct Nvdec {
    caps: unsafe extern "C" fn(*mut Caps) -> c_int,
}

impl Nvdec {
    pub fn open() -> Result<Nvdec, LoadError> {
        let library = Library::open("libnvcuvid.so.1")?;
        // SAFETY: cuvidGetDecoderCaps takes one CUVIDDECODECAPS and gives a CUresult.
        Ok(Nvdec { caps: unsafe { library.symbol(c"cuvidGetDecoderCaps")? } })
    }

    /// Every combination that the current context's card decodes, in the order of codec, chroma and depth. A codec whose
    /// 4:2:0 of 8 bits is not decoded is asked for nothing else.
    pub fn decoders(&self, current: &Current<'_>) -> Result<Vec<Decoder>, CudaError> {
        let mut found: Vec<Decoder> = Vec::new();
        for (codec, chromas, depths) in ASKED {
            let known = found.len();
            'codec: for chroma in chromas {
                for depth in depths {
                    match self.ask(current, codec, *chroma, *depth)? {
                        Some(decoder) => found.push(decoder),
                        None if (*chroma, *depth) == (1, 8) => break 'codec,
                        None => {}
                    }
                }
            }
            if let Some(fresh) = found.get_mut(known..) {
                fresh.sort_by_key(|one| (one.chroma, one.depth));
            }
        }
        Ok(found)
    }

    fn ask(
        &self,
        current: &Current<'_>,
        codec: VideoCodec,
        chroma: usize,
        depth: u8,
    ) -> Result<Option<Decoder>, CudaError> {
        let mut caps = Caps {
            codec: codec as c_int,
            chroma: chroma as c_int,
            depth_minus_8: u32::from(depth.saturating_sub(8)),
            ..Caps::default()
        };
        // SAFETY: the struct has the layout that the assertion above holds, and a context is current.
        let code = unsafe { (self.caps)(&raw mut caps) };
        current.cuda.done("cuvidGetDecoderCaps", code)?;
        Ok((caps.supported == 1).then(|| Decoder {
            codec,
            chroma: CHROMAS.get(chroma).copied().unwrap_or("420"),
            depth,
            engines: caps.engines,
            max_width: caps.max_width,
            max_height: caps.max_height,
            min_width: caps.min_width,
            min_height: caps.min_height,
            max_macroblocks: caps.max_macroblocks,
        }))
    }
}
