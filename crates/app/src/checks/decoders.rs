//! The ticks of the decoders, against what NVDEC of this card decodes.

use formats::encodingxml::EncodingXml;
use gpu::codecs::{Codec, Codecs};
use model::{About, Check, CheckId, Layer, Source, Trouble, Verdict};

use super::{each, fix, is_on, shown, uses_nvenc};
use crate::Facts;
use crate::settings::DECODERS;

const LIST: &str = "HardwareDecodingCodecs";

fn ticked(xml: &EncodingXml, name: &str) -> bool {
    match xml.list(LIST) {
        Some(list) => list.iter().any(|entry| entry.eq_ignore_ascii_case(name)),
        // Jellyfin's default.
        None => matches!(name, "h264" | "vc1"),
    }
}

/// The depths that have a switch of their own.
const DEEP: [(&str, Codec); 2] =
    [("EnableDecodingColorDepth10Hevc", Codec::Hevc), ("EnableDecodingColorDepth10Vp9", Codec::Vp9)];

/// Names of ticked decoders that the card lacks, and the settings that tick them.
fn unsupported(xml: &EncodingXml, codecs: &Codecs) -> Vec<(String, &'static str)> {
    let ticks = DECODERS.iter().filter(|(name, codec)| ticked(xml, name) && !codecs.decodes_420(*codec, 8));
    let mut all: Vec<(String, &'static str)> = ticks.map(|(_, codec)| (codec.name().to_owned(), LIST)).collect();
    for (key, codec) in DEEP {
        let has_8 = codecs.decodes_420(codec, 8);
        if has_8
            && is_on(xml, key, true)
            && !codecs.decodes_420(codec, 10)
            && DECODERS.iter().any(|(name, c)| *c == codec && ticked(xml, name))
        {
            all.push((format!("{} with 10 bits", codec.name()), key));
        }
    }
    all
}

pub const UNSUPPORTED: Check<Facts> = Check {
    about: About {
        id: CheckId("app/decoder-unsupported"),
        layer: Layer::App,
        title: "no decoder is ticked that the card lacks",
        why: "Jellyfin hands a film to the card's decoder by the tick alone, and does not fall back when ffmpeg ends: \
              \"Codec hevc_cuvid is not supported\", exit code 218, \"fatal player error\". Which codecs and depths NVDEC \
              has differs from chip to chip: no VP8 on a GT 1030, AV1 only from Ampere on.",
        source: "NVIDIA's support matrix; Jellyfin: EncodingHelper",
    },
    run: |facts| {
        each(facts, |facts, config, xml, codecs| {
            if !uses_nvenc(xml) {
                return None;
            }
            let lacking = unsupported(xml, codecs);
            let (_, key) = lacking.first()?;
            let names: Vec<&str> = lacking.iter().map(|(name, _)| name.as_str()).collect();
            let says = format!(
                "Jellyfin decodes {} with the {}, which cannot: such films fail",
                names.join(", "),
                facts.card_names()
            );
            let trouble = shown(Trouble::new(says), config, xml, key);
            Some(Verdict::Fail(trouble.seen(Source::Rule(codecs.source.clone()), codecs.chip.clone()).fix(fix())))
        })
    },
};

pub const MISSING: Check<Facts> = Check {
    about: About {
        id: CheckId("app/decoder-missing"),
        layer: Layer::App,
        title: "every decoder of the card is ticked",
        why: "What is not ticked is decoded by the CPU, without a word: hardware acceleration reads as on, and the CPU is \
              full. Jellyfin's default ticks H.264 and VC-1 alone, so HEVC, the codec of most large films, stays off.",
        source: "Jellyfin: EncodingOptions.HardwareDecodingCodecs",
    },
    run: |facts| {
        each(facts, |facts, config, xml, codecs| {
            if !uses_nvenc(xml) {
                return None;
            }
            let missing = DECODERS.iter().filter(|(name, codec)| codecs.decodes_420(*codec, 8) && !ticked(xml, name));
            let mut names: Vec<String> = missing.map(|(_, codec)| codec.name().to_owned()).collect();
            let mut key = LIST;
            if names.is_empty() {
                for (switch, codec) in DEEP {
                    if codecs.decodes_420(codec, 10) && !is_on(xml, switch, true) {
                        names.push(format!("{} with 10 bits", codec.name()));
                        key = switch;
                    }
                }
            }
            if names.is_empty() {
                return None;
            }
            let says =
                format!("the {} decodes {}, and Jellyfin leaves it to the CPU", facts.card_names(), names.join(", "));
            let trouble = shown(Trouble::new(says), config, xml, key);
            Some(Verdict::Warn(trouble.seen(Source::Rule(codecs.source.clone()), codecs.chip.clone()).fix(fix())))
        })
    },
};
