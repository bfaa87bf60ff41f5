//! A card's video engines as data: what NVDEC decodes, what NVENC encodes.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Both kinds of engine.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Video {
    /// Decoding engines: what bNumNVDECs says.
    pub nvdec: u8,
    /// Encoding engines; 0: the card encodes nothing, and opening a session is refused.
    pub nvenc: u8,
    pub decodes: Vec<Decode>,
    pub encodes: Vec<Encode>,
}

/// Combinations that NVDEC decodes: each chroma format with each depth.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decode {
    /// "mpeg1", "hevc": see [`CODECS`].
    pub codec: String,
    /// "400", "420", "422", "444".
    pub chroma: Vec<String>,
    /// Bits of a sample.
    pub depths: Vec<u8>,
    /// Width and height in pixels.
    pub max: [u32; 2],
    pub min: [u16; 2],
    /// The most macroblocks of a picture; None: as many as `max` has.
    pub macroblocks: Option<u32>,
    /// Where it is not the card's number of NVDEC engines (JPEG has its own).
    pub engines: Option<u8>,
}

/// cudaVideoCodec's numbers.
pub const CODECS: [(&str, i32); 10] = [
    ("mpeg1", 0),
    ("mpeg2", 1),
    ("mpeg4", 2),
    ("vc1", 3),
    ("h264", 4),
    ("jpeg", 5),
    ("hevc", 8),
    ("vp8", 9),
    ("vp9", 10),
    ("av1", 11),
];

/// cudaVideoChromaFormat's numbers are the places in this list.
pub const CHROMAS: [&str; 4] = ["400", "420", "422", "444"];

/// One codec that NVENC encodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encode {
    /// "h264", "hevc", "av1".
    pub codec: String,
    pub max: [i32; 2],
    pub min: [i32; 2],
    #[serde(default)]
    pub b_frames: i32,
    #[serde(default)]
    pub depth_10: bool,
    #[serde(default)]
    pub yuv_422: bool,
    #[serde(default)]
    pub yuv_444: bool,
    #[serde(default)]
    pub lossless: bool,
    /// NV_ENC_CAPS's number to value, for all that has no field of its own; a capability that is not here is 0.
    #[serde(default)]
    pub caps: BTreeMap<String, i32>,
}

impl Video {
    /// What NVDEC decodes of one combination, and with how many engines.
    pub fn decode(&self, codec: i32, chroma: i32, depth: u32) -> Option<(&Decode, u8)> {
        let name = CODECS.iter().find(|(_, number)| *number == codec)?.0;
        let chroma = CHROMAS.get(usize::try_from(chroma).ok()?)?;
        let found = self.decodes.iter().find(|row| {
            row.codec == name
                && row.chroma.iter().any(|known| known == chroma)
                && row.depths.iter().any(|known| u32::from(*known) == depth)
        })?;
        Some((found, found.engines.unwrap_or(self.nvdec)))
    }

    /// What is wrong in the data, if anything is.
    pub(crate) fn wrong(&self) -> Option<String> {
        let codec = |name: &str| CODECS.iter().any(|(known, _)| *known == name);
        let decode = self
            .decodes
            .iter()
            .find(|row| !codec(&row.codec) || row.chroma.iter().any(|chroma| !CHROMAS.contains(&chroma.as_str())));
        if let Some(row) = decode {
            return Some(format!("no decoder of {} in {:?} is known", row.codec, row.chroma));
        }
        let encode = self.encodes.iter().find(|row| !["h264", "hevc", "av1"].contains(&row.codec.as_str()));
        if let Some(row) = encode {
            return Some(format!("no encoder of {} is known", row.codec));
        }
        (self.encodes.is_empty() != (self.nvenc == 0)).then(|| "encoders and their engines do not agree".to_owned())
    }
}
