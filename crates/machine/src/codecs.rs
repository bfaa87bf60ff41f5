//! What the cards' video engines say of themselves, as data.

use model::Seen;
use serde::{Deserialize, Serialize};

/// The answer to [`crate::Question::Codecs`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CodecsReport {
    /// The newest NVENC API of the driver: NvEncodeAPIGetMaxSupportedVersion.
    pub nvenc_api: Seen<(u32, u32)>,
    pub gpus: Vec<GpuCodecs>,
}

/// One CUDA device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuCodecs {
    /// "0000:01:00.0": cuDeviceGetPCIBusId.
    pub bus_id: String,
    pub name: Seen<String>,
    /// cuvidGetDecoderCaps. Absent: the driver's NVDEC library is not here.
    pub decodes: Seen<Vec<DecodeCap>>,
    /// NVENC's GUIDs and caps. Absent: the card has no encoder.
    pub encodes: Seen<Vec<EncodeCap>>,
}

/// One combination that NVDEC decodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecodeCap {
    /// "mpeg1", "mpeg2", "mpeg4", "vc1", "h264", "jpeg", "hevc", "vp8", "vp9", "av1".
    pub codec: String,
    /// "400", "420", "422", "444".
    pub chroma: String,
    /// Bits of a sample.
    pub depth: u8,
    /// Engines for it; 0 where the driver is too old to say.
    pub engines: u8,
    /// Pixels.
    pub max_width: u32,
    pub max_height: u32,
    pub min_width: u16,
    pub min_height: u16,
    /// Macroblocks of 16 × 16 pixels in a picture.
    pub max_macroblocks: u32,
}

/// One codec that NVENC encodes. `None`: the driver does not know the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodeCap {
    pub codec: String,
    pub max_width: Option<u32>,
    pub max_height: Option<u32>,
    pub depth_10: Option<bool>,
    pub yuv_422: Option<bool>,
    pub yuv_444: Option<bool>,
    pub lossless: Option<bool>,
    pub b_frames: Option<u32>,
    pub engines: Option<u32>,
}
