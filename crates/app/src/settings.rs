//! From what a card can do to Jellyfin's settings: a pure function, and the one edit of encoding.xml.

use formats::encodingxml::EncodingXml;
use gpu::codecs::{Codec, Codecs};
use serde::Serialize;

/// Jellyfin's names of the codecs that NVDEC decodes for it, in the order of its settings page.
pub const DECODERS: [(&str, Codec); 8] = [
    ("h264", Codec::H264),
    ("hevc", Codec::Hevc),
    ("mpeg2video", Codec::Mpeg2),
    ("mpeg4", Codec::Mpeg4),
    ("vc1", Codec::Vc1),
    ("vp8", Codec::Vp8),
    ("vp9", Codec::Vp9),
    ("av1", Codec::Av1),
];

/// The settings of encoding.xml that depend on the card. `None`: the user's choice stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// HardwareAccelerationType: "nvenc" turns NVDEC on too; the encoder has a switch of its own.
    pub acceleration: &'static str,
    pub hardware_encoding: bool,
    pub decoders: Vec<&'static str>,
    pub hevc_10: bool,
    pub vp9_10: bool,
    /// HEVC range extensions (4:4:4). Only switched where the file has them: older Jellyfin does not know them.
    pub hevc_rext_10: bool,
    pub hevc_rext_12: bool,
    /// Off where the card cannot; else the user's choice.
    pub allow_hevc: Option<bool>,
    pub allow_av1: Option<bool>,
    pub tonemapping: bool,
    pub enhanced_nvdec: bool,
}

/// What fits a card. A card that decodes nothing gets "none".
pub fn fitting(codecs: &Codecs) -> Settings {
    let decoders: Vec<&'static str> =
        DECODERS.iter().filter(|(_, codec)| codecs.decodes_420(*codec, 8)).map(|(name, _)| *name).collect();
    let encodes = codecs.encodes(Codec::H264);
    let hevc_10 = codecs.decodes_420(Codec::Hevc, 10);
    Settings {
        acceleration: if decoders.is_empty() && !encodes { "none" } else { "nvenc" },
        hardware_encoding: encodes,
        decoders,
        hevc_10,
        vp9_10: codecs.decodes_420(Codec::Vp9, 10),
        hevc_rext_10: codecs.decodes_444(Codec::Hevc, 8) && codecs.decodes_444(Codec::Hevc, 10),
        hevc_rext_12: codecs.decodes_444(Codec::Hevc, 12),
        allow_hevc: (!codecs.encodes(Codec::Hevc)).then_some(false),
        allow_av1: (!codecs.encodes(Codec::Av1)).then_some(false),
        tonemapping: hevc_10,
        enhanced_nvdec: true,
    }
}

impl Settings {
    /// Edits the file in place; the settings that changed, as "name: old → new".
    pub fn write(&self, xml: &mut EncodingXml) -> Vec<String> {
        let mut said = Vec::new();
        let mut scalar = |xml: &mut EncodingXml, key: &str, value: &str| {
            let old = xml.get(key).map(str::to_owned);
            // .NET reads True and TRUE as well as true.
            let same = old.as_deref().is_some_and(|old| old.eq_ignore_ascii_case(value));
            if !same && xml.set(key, value) {
                said.push(format!("{key}: {} → {value}", old.as_deref().unwrap_or("(not set)")));
            }
        };
        let word = |on: bool| if on { "true" } else { "false" };
        scalar(xml, "HardwareAccelerationType", self.acceleration);
        scalar(xml, "EnableHardwareEncoding", word(self.hardware_encoding));
        scalar(xml, "EnableDecodingColorDepth10Hevc", word(self.hevc_10));
        scalar(xml, "EnableDecodingColorDepth10Vp9", word(self.vp9_10));
        scalar(xml, "EnableEnhancedNvdecDecoder", word(self.enhanced_nvdec));
        scalar(xml, "EnableTonemapping", word(self.tonemapping));
        for (key, on) in [
            ("EnableDecodingColorDepth10HevcRext", self.hevc_rext_10),
            ("EnableDecodingColorDepth12HevcRext", self.hevc_rext_12),
        ] {
            if xml.get(key).is_some() {
                scalar(xml, key, word(on));
            }
        }
        for (key, choice) in [("AllowHevcEncoding", self.allow_hevc), ("AllowAv1Encoding", self.allow_av1)] {
            // What the file does not have is off by default.
            if let (Some(on), Some(_)) = (choice, xml.get(key)) {
                scalar(xml, key, word(on));
            }
        }
        let old = xml.list("HardwareDecodingCodecs").map(|list| list.join(", "));
        if xml.set_list("HardwareDecodingCodecs", &self.decoders) {
            let old = old.unwrap_or_else(|| "(not set)".into());
            said.push(format!("HardwareDecodingCodecs: {old} → {}", self.decoders.join(", ")));
        }
        said
    }
}

#[cfg(test)]
mod tests {
    use gpu::codecs::by_name;

    use super::*;

    fn of(name: &str) -> Settings {
        fitting(&by_name(name).expect("in the table"))
    }

    #[test]
    fn the_gt_1030_decodes_and_leaves_encoding_to_the_cpu() {
        let wanted = Settings {
            acceleration: "nvenc",
            hardware_encoding: false,
            decoders: vec!["h264", "hevc", "mpeg2video", "mpeg4", "vc1", "vp9"],
            hevc_10: true,
            vp9_10: true,
            hevc_rext_10: false,
            hevc_rext_12: false,
            allow_hevc: Some(false),
            allow_av1: Some(false),
            tonemapping: true,
            enhanced_nvdec: true,
        };
        assert_eq!(of("GP108 [GeForce GT 1030]"), wanted);
    }

    #[test]
    fn the_gtx_1660_encodes_hevc_and_no_av1() {
        let wanted = Settings {
            acceleration: "nvenc",
            hardware_encoding: true,
            decoders: vec!["h264", "hevc", "mpeg2video", "mpeg4", "vc1", "vp8", "vp9"],
            hevc_10: true,
            vp9_10: true,
            hevc_rext_10: true,
            hevc_rext_12: true,
            allow_hevc: None,
            allow_av1: Some(false),
            tonemapping: true,
            enhanced_nvdec: true,
        };
        assert_eq!(of("TU116 [GeForce GTX 1660]"), wanted);
    }

    #[test]
    fn the_rtx_4090_does_all() {
        let settings = of("AD102 [GeForce RTX 4090]");
        assert!(settings.hardware_encoding);
        assert_eq!((settings.allow_hevc, settings.allow_av1), (None, None));
        assert_eq!(settings.decoders.len(), DECODERS.len());
    }

    #[test]
    fn the_h100_decodes_and_encodes_nothing() {
        let settings = of("GH100 [H100 SXM5 80GB]");
        assert_eq!(settings.acceleration, "nvenc");
        assert!(!settings.hardware_encoding);
        assert!(settings.decoders.contains(&"vp8") && !settings.decoders.contains(&"av1"));
        assert!(settings.hevc_rext_12);
    }

    #[test]
    fn writing_twice_changes_nothing_more() {
        let text = "<EncodingOptions>\n  <HardwareAccelerationType>none</HardwareAccelerationType>\n  \
            <EnableHardwareEncoding>True</EnableHardwareEncoding>\n  <AllowHevcEncoding>true</AllowHevcEncoding>\n  \
            <H264Crf>23</H264Crf>\n</EncodingOptions>";
        let mut xml = EncodingXml::parse(text.as_bytes()).expect("reads");
        let settings = of("GP108 [GeForce GT 1030]");
        let said = settings.write(&mut xml);
        assert!(said.contains(&"EnableHardwareEncoding: True → false".to_owned()), "{said:?}");
        assert!(said.contains(&"AllowHevcEncoding: true → false".to_owned()), "{said:?}");
        assert!(!said.iter().any(|line| line.starts_with("AllowAv1Encoding")), "{said:?}");
        assert!(xml.as_str().contains("<H264Crf>23</H264Crf>"));
        assert_eq!(settings.write(&mut xml), Vec::<String>::new());
    }
}
