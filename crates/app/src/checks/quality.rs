//! Settings that let a film play and make it worse: the picture, the preset, the decoder's old path, the CPU's share.

use gpu::codecs::Codec;
use model::{About, Check, CheckId, Fix, Layer, Trouble, Verdict};

use super::{each, fix, is_on, shown, uses_nvenc};
use crate::Facts;

pub const TONE_MAPPING: Check<Facts> = Check {
    about: About {
        id: CheckId("app/tone-mapping-off"),
        layer: Layer::App,
        title: "HDR films are mapped to what screens show",
        why: "Tone mapping is off by default: an HDR film that is transcoded looks grey and washed out on every other screen. \
              A card that decodes HEVC with 10 bits maps it with its own compute units, at little cost; a card of 2 GB may \
              run out of memory with 4K.",
        source: "Jellyfin: EncodingOptions.EnableTonemapping; its documentation on HDR",
    },
    run: |facts| {
        each(facts, |facts, config, xml, codecs| {
            let fits =
                uses_nvenc(xml) && codecs.decodes_420(Codec::Hevc, 10) && !is_on(xml, "EnableTonemapping", false);
            let says = format!(
                "tone mapping is off: HDR films look washed out, and the {} could map them",
                facts.card_names()
            );
            fits.then(|| Verdict::Warn(shown(Trouble::new(says), config, xml, "EnableTonemapping").fix(fix())))
        })
    },
};

pub const OLD_DECODER_PATH: Check<Facts> = Check {
    about: About {
        id: CheckId("app/old-decoder-path"),
        layer: Layer::App,
        title: "Jellyfin uses the newer of ffmpeg's two ways to NVDEC",
        why: "ffmpeg reaches NVDEC by its own decoders (-hwaccel cuda) or by those of the driver (cuvid). The second is the \
              older way: it shows green or black frames with some films, knows no Dolby Vision, and was meant for ffmpeg \
              builds that lack the first.",
        source: "Jellyfin: EncodingOptions.EnableEnhancedNvdecDecoder; jellyfin issue 4879",
    },
    run: |facts| {
        each(facts, |_, config, xml, _| {
            let off = uses_nvenc(xml) && !is_on(xml, "EnableEnhancedNvdecDecoder", true);
            let says = "Jellyfin decodes by the older way (cuvid): green or black frames with some films";
            off.then(|| Verdict::Warn(shown(Trouble::new(says), config, xml, "EnableEnhancedNvdecDecoder").fix(fix())))
        })
    },
};

pub const PRESET_LOST: Check<Facts> = Check {
    about: About {
        id: CheckId("app/preset-lost"),
        layer: Layer::App,
        title: "the encoder's preset is not the fastest and worst",
        why: "The upgrade to Jellyfin 10.10 reads the preset and the deinterlacer out of the text of another setting, and so \
              loses both: the preset falls to superfast. With NVENC that is p1, its lowest quality; the CPU's encoder loses \
              more. Where somebody chose it so, it is well.",
        source: "Jellyfin: MigrateEncodingOptions; EncodingHelper's presets of NVENC",
    },
    run: |facts| {
        each(facts, |_, config, xml, _| {
            let preset = xml.get("EncoderPreset").unwrap_or_default();
            if !["superfast", "ultrafast"].iter().any(|fast| preset.eq_ignore_ascii_case(fast)) {
                return None;
            }
            let says = format!("films are encoded with the preset {preset}, the fastest and worst");
            let line =
                format!("# in {}: <EncoderPreset>auto</EncoderPreset>, and look at DeinterlaceMethod", config.path);
            let fix =
                Fix::by_hand("set the preset to auto in Dashboard, Playback", &[&line], "set the old preset again");
            Some(Verdict::Warn(shown(Trouble::new(says), config, xml, "EncoderPreset").fix(fix)))
        })
    },
};

pub const FEW_THREADS: Check<Facts> = Check {
    about: About {
        id: CheckId("app/few-threads"),
        layer: Layer::App,
        title: "the CPU may encode with all its cores where the card encodes nothing",
        why: "A card without an encoder leaves encoding to the CPU. EncodingThreadCount holds libx264 to so many threads; \
              one or two of them are slower than the film, and it stops again and again. -1 lets the encoder choose.",
        source: "Jellyfin: EncodingOptions.EncodingThreadCount",
    },
    run: |facts| {
        each(facts, |facts, config, xml, codecs| {
            let threads = xml.get("EncodingThreadCount").and_then(|text| text.parse::<i32>().ok());
            let few = threads.filter(|threads| (1..=2).contains(threads) && !codecs.encodes(Codec::H264))?;
            let says = format!(
                "no encoder in the {}, and the CPU may encode with {few} thread{} only",
                facts.card_names(),
                if few == 1 { "" } else { "s" }
            );
            let line = format!("# in {}: <EncodingThreadCount>-1</EncodingThreadCount>", config.path);
            let fix =
                Fix::by_hand("set the transcoding threads to Auto in Dashboard, Playback", &[&line], "set it back");
            Some(Verdict::Warn(shown(Trouble::new(says), config, xml, "EncodingThreadCount").fix(fix)))
        })
    },
};
