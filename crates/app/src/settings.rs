//! From what a card can do to Jellyfin's settings: a pure function, and the one edit of them, whether they lie in
//! encoding.xml or come by the API.

use formats::encodingxml::EncodingXml;
use gpu::codecs::{Codec, Codecs};
use serde::Serialize;
use serde_json::{Map, Value};

/// Where settings are kept. Both forms have the same keys.
pub trait Options {
    /// A setting's value as text; `None` where it is not set.
    fn get(&self, key: &str) -> Option<String>;
    fn list(&self, key: &str) -> Option<Vec<String>>;
    /// True where something changed.
    fn set(&mut self, key: &str, value: &str) -> bool;
    fn set_list(&mut self, key: &str, entries: &[&str]) -> bool;
    /// Whether a key that is not there may be added.
    fn takes(&self, key: &str) -> bool;
}

/// The file: Jellyfin passes elements by that it does not know.
impl Options for EncodingXml {
    fn get(&self, key: &str) -> Option<String> {
        EncodingXml::get(self, key).map(str::to_owned)
    }

    fn list(&self, key: &str) -> Option<Vec<String>> {
        EncodingXml::list(self, key).map(<[String]>::to_vec)
    }

    fn set(&mut self, key: &str, value: &str) -> bool {
        EncodingXml::set(self, key, value)
    }

    fn set_list(&mut self, key: &str, entries: &[&str]) -> bool {
        EncodingXml::set_list(self, key, entries)
    }

    fn takes(&self, _: &str) -> bool {
        true
    }
}

/// The object of /System/Configuration/encoding: a server answers with every key that it knows, and no other is sent.
impl Options for Map<String, Value> {
    fn get(&self, key: &str) -> Option<String> {
        match Map::get(self, key)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }

    fn list(&self, key: &str) -> Option<Vec<String>> {
        let all = Map::get(self, key)?.as_array()?;
        Some(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    fn set(&mut self, key: &str, value: &str) -> bool {
        let Some(place) = self.get_mut(key) else { return false };
        let plain = serde_json::from_str::<Value>(value).ok().filter(|new| new.is_boolean() || new.is_number());
        let new = match (&place, plain) {
            (Value::String(_), _) | (_, None) => Value::from(value),
            (_, Some(plain)) => plain,
        };
        let changed = *place != new;
        *place = new;
        changed
    }

    fn set_list(&mut self, key: &str, entries: &[&str]) -> bool {
        let sorted = |mut names: Vec<String>| {
            names.sort_unstable();
            names
        };
        let wanted = entries.iter().map(|entry| (*entry).to_owned()).collect();
        if Options::list(self, key).is_some_and(|now| sorted(now) == sorted(wanted)) {
            return false;
        }
        let Some(place) = self.get_mut(key) else { return false };
        *place = entries.iter().map(|entry| Value::from(*entry)).collect();
        true
    }

    fn takes(&self, key: &str) -> bool {
        self.contains_key(key)
    }
}

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
    /// By the card's own filter, which takes what its decoder gives with 10 bits.
    pub tonemapping: bool,
    pub enhanced_nvdec: bool,
}

/// What encodes on the CPU with one thread is slower than the film: x264 uses that many cores, -1 leaves it to Jellyfin.
/// Any other number is its owner's to choose.
pub fn threads_hurt(threads: &str, hardware_encoding: bool) -> bool {
    match threads.trim().parse::<i64>() {
        Ok(1) => !hardware_encoding,
        Ok(threads) => threads < -1,
        Err(_) => !threads.trim().is_empty(),
    }
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
    /// Edits the settings in place; those that changed, as "name: old → new".
    pub fn write(&self, to: &mut impl Options) -> Vec<String> {
        let mut said = Vec::new();
        let mut scalar = |to: &mut dyn FnMut(&str, &str) -> bool, old: Option<String>, key: &str, value: &str| {
            // .NET reads True and TRUE as well as true.
            let same = old.as_deref().is_some_and(|old| old.eq_ignore_ascii_case(value));
            if !same && to(key, value) {
                said.push(format!("{key}: {} → {value}", old.as_deref().unwrap_or("(not set)")));
            }
        };
        let word = |on: bool| if on { "true" } else { "false" };
        let mut wanted = vec![
            ("HardwareAccelerationType", self.acceleration),
            ("EnableHardwareEncoding", word(self.hardware_encoding)),
            ("EnableDecodingColorDepth10Hevc", word(self.hevc_10)),
            ("EnableDecodingColorDepth10Vp9", word(self.vp9_10)),
            ("EnableEnhancedNvdecDecoder", word(self.enhanced_nvdec)),
            ("EnableTonemapping", word(self.tonemapping)),
        ];
        wanted.retain(|(key, _)| to.takes(key));
        for (key, on) in [
            ("EnableDecodingColorDepth10HevcRext", Some(self.hevc_rext_10)),
            ("EnableDecodingColorDepth12HevcRext", Some(self.hevc_rext_12)),
            // What is not there is off by default.
            ("AllowHevcEncoding", self.allow_hevc),
            ("AllowAv1Encoding", self.allow_av1),
        ] {
            wanted.extend(on.filter(|_| to.get(key).is_some()).map(|on| (key, word(on))));
        }
        if to.get(THREADS).is_some_and(|threads| threads_hurt(&threads, self.hardware_encoding)) {
            wanted.push((THREADS, "-1"));
        }
        for (key, value) in wanted {
            let old = to.get(key);
            scalar(&mut |key, value| to.set(key, value), old, key, value);
        }
        let old = to.list(DECODING).map(|list| list.join(", "));
        if to.takes(DECODING) && to.set_list(DECODING, &self.decoders) {
            let old = old.unwrap_or_else(|| "(not set)".into());
            said.push(format!("{DECODING}: {old} → {}", self.decoders.join(", ")));
        }
        said
    }
}

const THREADS: &str = "EncodingThreadCount";
const DECODING: &str = "HardwareDecodingCodecs";

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
